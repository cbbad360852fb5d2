//! Typed configuration: file, environment, flags, validated in one run.
