//! One conformance list per port, run on every engine.
