//! The edge: terminates Socket.IO clients.
