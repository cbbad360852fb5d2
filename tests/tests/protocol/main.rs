//! The wire, clause by clause, of a server where everything that clients may speak is on. Engine.IO v4 and Socket.IO v5 are `docs/engine.io-protocol/v4-current.md` and
//! `docs/socket.io-protocol/v5-current.md` of the repository socketio/socket.io; a test names the section it holds the
//! server to, and "reference" where the text is loose and npm `engine.io` or `socket.io` is the measure.

mod client;
mod cors;
mod engine_polling;
mod engine_session;
mod engine_upgrade;
mod engine_v3;
mod engine_websocket;
mod malformed;
mod socketio_namespaces;
mod socketio_packets;
mod traps;
