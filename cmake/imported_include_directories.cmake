# The ROS 2 wheels export include directories of the machine that they were built on (its Python's headers), and CMake
# refuses targets whose include directories don't exist. Drop those; this project names its own Python's. Where ROS 2
# is installed in the ordinary way, nothing matches.
get_directory_property(imported_targets IMPORTED_TARGETS)
foreach(target ${imported_targets})
  get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
  if(directories)
    set(existing "")
    foreach(directory ${directories})
      if(directory MATCHES "^\\$<" OR EXISTS "${directory}")
        list(APPEND existing "${directory}")
      endif()
    endforeach()
    set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${existing}")
  endif()
endforeach()
