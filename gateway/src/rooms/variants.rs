use std::{cell::OnceCell, sync::Arc};

use model::Offset;
use proto::v1::Publish;
use sio::packet::{Encoded, Wire};

use crate::{deliver::encode, session::Socket, transport::Conn};

/// An event in the wire forms that members get it in, each encoded once, and only if somebody gets it.
pub(super) struct Variants<'a> {
    pub(super) publish: &'a Arc<Publish>,
    pub(super) offset: Option<Offset>,
    position: Option<Arc<str>>,
    /// For sockets that can be recovered.
    with_position: OnceCell<Encoded>,
    /// For those that cannot.
    plain: OnceCell<Encoded>,
    translated: Translated,
}

impl<'a> Variants<'a> {
    pub(super) fn new(publish: &'a Arc<Publish>, offset: Option<Offset>, position: Option<Arc<str>>) -> Self {
        Self {
            publish,
            offset,
            position,
            with_position: OnceCell::new(),
            plain: OnceCell::new(),
            translated: Translated::default(),
        }
    }

    #[inline]
    pub(super) fn of(&self, socket: &Socket) -> &Encoded {
        let recovers = socket.pid().is_some();
        self.translated
            .of(self.standard(recovers), socket.conn(), recovers)
    }

    /// The same for several events in one piece.
    pub(super) fn all_of<'j>(run: &[Self], joined: &'j Joined, socket: &Socket) -> &'j Encoded {
        let recovers = socket.pid().is_some();
        let piece = if recovers {
            &joined.with_position
        } else {
            &joined.plain
        };
        let concat = || Encoded::concat(run.iter().map(|variants| variants.standard(recovers)));
        let standard = piece.get_or_init(concat);
        joined.translated.of(standard, socket.conn(), recovers)
    }

    #[inline]
    fn standard(&self, recovers: bool) -> &Encoded {
        if recovers {
            self.with_position
                .get_or_init(|| encode(self.publish, self.offset, self.position.as_deref()))
        } else {
            self.plain.get_or_init(|| encode(self.publish, self.offset, None))
        }
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
    translated: Translated,
}

/// Events in other forms; where nobody wants one, nothing is kept for them.
#[derive(Default)]
struct Translated(OnceCell<Box<[Forms; 2]>>);

/// `None` where it is no different from the standard one.
type Forms = [OnceCell<Option<Encoded>>; Wire::COUNT];

impl Translated {
    /// Nearly always it is the standard one.
    #[inline]
    fn of<'e>(&'e self, standard: &'e Encoded, conn: &Conn, recovers: bool) -> &'e Encoded {
        if conn.is_standard() {
            standard
        } else {
            self.in_form(standard, conn, recovers)
        }
    }

    #[cold]
    fn in_form<'e>(&'e self, standard: &'e Encoded, conn: &Conn, recovers: bool) -> &'e Encoded {
        let form = &self.0.get_or_init(Box::default)[usize::from(recovers)][conn.wire().index()];
        form.get_or_init(|| conn.translate(standard))
            .as_ref()
            .unwrap_or(standard)
    }
}
