//! Phases, named tasks, drain, admin server.
