//! Engine.IO and Socket.IO codec and state machines, sans-IO.
