# What `cmake --install` lays down, and how others find it: libraries, headers, and a package for find_package(allrounder).
#
# The same tree goes below a prefix and, through scikit-build-core, into a wheel's folder allrounder/native.
# SOVERSION is the major version. A wheel holds no symlinks, so there the library has one plain name.
if(SKBUILD)
  set(CMAKE_INSTALL_LIBDIR lib) # where allrounder.native looks, on every distribution
else()
  set_target_properties(allrounder PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
endif()
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/allrounder)

target_include_directories(allrounder INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(TARGETS allrounder EXPORT allrounder-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(plugin allrounder_ort_ops allrounder_tensorrt_plugin)
  if(TARGET ${plugin}) # only where its backend is built
    install(TARGETS ${plugin} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endforeach()
install(FILES include/allrounder/c_api.h include/allrounder/allrounder.hpp include/allrounder/request.hpp
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/allrounder)
if(TARGET allrounder_tensorrt_plugin)
  install(FILES include/allrounder/tensorrt_plugin.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/allrounder)
endif()

install(EXPORT allrounder-targets NAMESPACE allrounder:: DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/allrounder-config-version.cmake COMPATIBILITY SameMajorVersion)
install(FILES cmake/allrounder-config.cmake ${PROJECT_BINARY_DIR}/allrounder-config-version.cmake DESTINATION ${package_dir})

if(NOT SKBUILD) # the wheel has its licence in its own place, and Python in place of the tool
  install(TARGETS allrounder-native RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES ${PROJECT_SOURCE_DIR}/../LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()
