//! Ports EventLog, Signals and Documents with their engines.
