//! WebSocket frames and the markers inside published events: nothing is decoded that need not be.

use std::ops::Range;

/// Bytes of a marker: `~`, publisher (6 hex), number (8 hex), intended time (16 hex), `~`.
pub(crate) const MARKER: usize = 32;

/// Names one published event, and when it should have been sent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// Below 2^24.
    pub(crate) publisher: u32,
    /// The publisher's own count, from 1.
    pub(crate) number: u32,
    /// Nanoseconds of the monotonic clock, which all processes of a machine share.
    pub(crate) intended: u64,
}

impl Marker {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        out.push(b'~');
        let mut hex = |value: u64, digits: u32| {
            out.extend(
                (0..digits)
                    .rev()
                    .map(|at| DIGITS[(value >> (4 * at) & 15) as usize]),
            );
        };
        hex(u64::from(self.publisher), 6);
        hex(u64::from(self.number), 8);
        hex(self.intended, 16);
        out.push(b'~');
    }

    /// The first marker in a payload.
    pub(crate) fn find(payload: &[u8]) -> Option<Self> {
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'~', &payload[from..]) {
            let marker = payload.get(from + at..from + at + MARKER)?;
            if marker[MARKER - 1] == b'~'
                && let (Some(publisher), Some(number), Some(intended)) =
                    (hex(&marker[1..7]), hex(&marker[7..15]), hex(&marker[15..31]))
            {
                return Some(Self {
                    publisher: publisher as u32,
                    number: number as u32,
                    intended,
                });
            }
            from += at + 1;
        }
        None
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for digit in digits {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(digit);
    }
    Some(value)
}

/// Opcodes of RFC 6455 section 5.2.
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// Appends a frame as a client sends it. The mask key is zero, so the payload stays as it is.
pub(crate) fn frame(out: &mut Vec<u8>, opcode: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode);
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// A frame as servers send it, which do not mask.
pub(crate) struct Frame {
    pub(crate) opcode: u8,
    pub(crate) payload: Range<usize>,
}

/// The first frame of `input`, once it is complete.
pub(crate) fn next_frame(input: &[u8]) -> Option<Frame> {
    let (header, length): (usize, usize) = match input.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        length => (2, usize::from(length)),
    };
    let end = header.checked_add(length)?;
    (input.len() >= end).then(|| Frame {
        opcode: input[0] & 0x0f,
        payload: header..end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Marker = Marker {
        publisher: 0xab_cdef,
        number: 77,
        intended: 0x1234_5678_9abc_def0,
    };

    #[test]
    fn a_marker_is_found_behind_what_only_looks_like_one() {
        let mut payload = b"42[\"message\",{\"x\":\"~ ~00\",\"content\":\"".to_vec();
        SOME.write(&mut payload);
        payload.extend(b"-----\"},\"position\"]");
        assert_eq!(Marker::find(&payload), Some(SOME));
        assert_eq!(Marker::find(b"~no marker~"), None);
        let mut cut = Vec::new();
        SOME.write(&mut cut);
        assert_eq!(cut.len(), MARKER);
        assert_eq!(Marker::find(&cut[..MARKER - 1]), None);
    }

    #[test]
    fn frames_of_every_length_are_told() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let mut frames = Vec::new();
            let payload = vec![b'x'; length];
            frame(&mut frames, TEXT, &[&payload]);
            // As from a server: no mask.
            let header = frames.len() - length - 4;
            frames[1] &= 0x7f;
            frames.drain(header..header + 4);
            for short in [1, header, frames.len() - 1] {
                if short < frames.len() {
                    assert!(next_frame(&frames[..short]).is_none());
                }
            }
            frames.push(0x81);
            let found = next_frame(&frames).unwrap();
            assert_eq!((found.opcode, found.payload), (TEXT, header..header + length));
        }
    }
}
