//! Protobuf messages that cross processes, generated code committed.
