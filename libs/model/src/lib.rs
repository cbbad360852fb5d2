//! Ids, rooms, users and error codes: the words every crate shares, no I/O.
