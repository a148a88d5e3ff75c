# find_package(allrounder) gives the target allrounder::allrounder: one shared library and its headers, no dependencies.
include(${CMAKE_CURRENT_LIST_DIR}/allrounder-targets.cmake)
