# What `cmake --install` lays down, and how others find it.
