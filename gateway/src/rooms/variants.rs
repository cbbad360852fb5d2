use std::{cell::OnceCell, sync::Arc};

use model::Offset;
use proto::v1::Publish;
use sio::packet::Encoded;

use crate::{deliver::encode, session::Socket};

/// An event in the wire forms that members get it in, each encoded once, and only if somebody gets it.
pub(super) struct Variants<'a> {
    pub(super) publish: &'a Arc<Publish>,
    pub(super) offset: Option<Offset>,
    position: Option<Arc<str>>,
    /// For sockets that can be recovered.
    with_position: OnceCell<Encoded>,
    /// For those that cannot.
    plain: OnceCell<Encoded>,
}

impl<'a> Variants<'a> {
    pub(super) fn new(publish: &'a Arc<Publish>, offset: Option<Offset>, position: Option<Arc<str>>) -> Self {
        Self {
            publish,
            offset,
            position,
            with_position: OnceCell::new(),
            plain: OnceCell::new(),
        }
    }

    pub(super) fn of(&self, socket: &Socket) -> &Encoded {
        if socket.pid().is_some() {
            self.with_position
                .get_or_init(|| encode(self.publish, self.offset, self.position.as_deref()))
        } else {
            self.plain.get_or_init(|| encode(self.publish, self.offset, None))
        }
    }

    /// The same for several events in one piece.
    pub(super) fn all_of<'j>(run: &[Self], joined: &'j Joined, socket: &Socket) -> &'j Encoded {
        let joined = if socket.pid().is_some() {
            &joined.with_position
        } else {
            &joined.plain
        };
        let concat = || Encoded::concat(run.iter().map(|variants| variants.of(socket)));
        joined.get_or_init(concat)
    }

    /// Bytes that each member gets of it; 0 when nobody got it.
    pub(super) fn len(&self) -> usize {
        let encoded = self.with_position.get().or_else(|| self.plain.get());
        encoded.map_or(0, Encoded::len)
    }

    /// Whether a socket that can be recovered got it.
    pub(super) fn is_recoverable(&self) -> bool {
        self.with_position.get().is_some()
    }
}

/// Several events in one piece, in the forms of [`Variants`].
#[derive(Default)]
pub(super) struct Joined {
    with_position: OnceCell<Encoded>,
    plain: OnceCell<Encoded>,
}
