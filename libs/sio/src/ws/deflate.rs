//! `permessage-deflate` (RFC 7692) without context takeover: each message is compressed by itself, so that one for many
//! is compressed once.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Error, frame};
use crate::packet::Encoded;

/// The answer to an offer that [`accepts`] takes.
pub const RESPONSE: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What ends a flushed block, and is left out on the wire (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// A message is taken to grow so much, until it is known.
const GROWTH: usize = 4;

thread_local! {
    // Hundreds of KiB each: one a thread, none a connection.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
    static INFLATE: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

/// Whether a value of `Sec-WebSocket-Extensions` offers the extension in a way that [`RESPONSE`] fits (section 7.1).
#[must_use]
pub fn accepts(offers: &str) -> bool {
    offers.split(',').any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next() == Some("permessage-deflate") && parts.all(is_taken)
    })
}

/// A window smaller than the greatest cannot be had here, and for clients any will do.
fn is_taken(parameter: &str) -> bool {
    let (name, value) = match parameter.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (parameter, None),
    };
    match (name, value) {
        ("server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits", None) => {
            true
        }
        ("client_max_window_bits", Some(bits)) => matches!(bits.parse(), Ok(8..=15)),
        ("server_max_window_bits", Some(bits)) => bits == "15",
        _ => false,
    }
}

/// The same packets with messages of `from` bytes and more compressed; `None` when there are none that get shorter.
#[must_use]
pub fn compress(packets: &Encoded, from: usize) -> Option<Encoded> {
    if packets.len() < from {
        return None;
    }
    let mut is_shorter = false;
    let mut out = Vec::with_capacity(packets.len());
    for message in packets.frames() {
        let compressed = (message.payload.len() >= from)
            .then(|| deflate(&message.payload))
            .flatten();
        match (compressed, message.binary) {
            (Some(compressed), binary) => {
                is_shorter = true;
                frame::write_compressed(&mut out, binary, &compressed);
            }
            (None, true) => frame::write_binary(&mut out, &message.payload),
            (None, false) => frame::write_text(&mut out, &message.payload),
        }
    }
    is_shorter.then(|| Encoded::from_frames(out.into()))
}

/// `None` when it does not get shorter.
fn deflate(data: &[u8]) -> Option<Vec<u8>> {
    DEFLATE.with_borrow_mut(|state| {
        state.reset();
        // With less room than the data there is no need to go on.
        let mut out = Vec::with_capacity(data.len());
        state.compress_vec(data, &mut out, FlushCompress::Sync).ok()?;
        let is_whole = state.total_in() == data.len() as u64 && out.ends_with(&TAIL);
        out.truncate(out.len().saturating_sub(TAIL.len()));
        is_whole.then_some(out)
    })
}

/// A message as it was before; `max` is in bytes of that.
pub(super) fn inflate(data: &[u8], max: usize) -> Result<Vec<u8>, Error> {
    INFLATE.with_borrow_mut(|state| {
        state.reset(false);
        let mut out = Vec::with_capacity(data.len().saturating_mul(GROWTH).clamp(64, max.max(64)));
        for mut rest in [data, &TAIL] {
            loop {
                if out.len() == out.capacity() {
                    out.reserve(out.len());
                }
                let taken = state.total_in();
                let status = state
                    .decompress_vec(rest, &mut out, FlushDecompress::Sync)
                    .map_err(|_| Error::InvalidDeflate)?;
                if out.len() > max {
                    return Err(Error::TooLarge);
                }
                if status == Status::StreamEnd {
                    return Ok(out);
                }
                rest = &rest[usize::try_from(state.total_in() - taken).unwrap_or(rest.len())..];
                if out.len() < out.capacity() {
                    if rest.is_empty() {
                        break;
                    }
                    if status == Status::BufError {
                        return Err(Error::InvalidDeflate);
                    }
                }
            }
        }
        Ok(out)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::encode;

    #[test]
    fn offers() {
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "x-webkit-deflate-frame, permessage-deflate;client_max_window_bits=\"10\"; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ] {
            assert!(accepts(offer), "{offer}");
        }
        for offer in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; unknown",
        ] {
            assert!(!accepts(offer), "{offer}");
        }
    }

    #[test]
    fn messages_survive() {
        for length in [0, 1, 100, 5_000, 300_000] {
            let text = "na ".repeat(length);
            let packed = deflate(text.as_bytes());
            if length >= 100 {
                let packed = packed.unwrap();
                assert!(packed.len() < text.len() / 10);
                assert_eq!(inflate(&packed, text.len()).unwrap(), text.as_bytes());
                assert_eq!(inflate(&packed, text.len() - 1), Err(Error::TooLarge));
            }
        }
        // Example of section 7.2.3.1.
        assert_eq!(inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 5).unwrap(), b"Hello");
        assert_eq!(inflate(b"\xf2\x48\xcd\xc9\xc9\x07\x00", 4), Err(Error::TooLarge));
        assert_eq!(inflate(b"\xff\xff\xff", 100), Err(Error::InvalidDeflate));
    }

    #[test]
    fn only_what_gets_shorter() {
        let long = format!("\"{}\"", "x".repeat(2000));
        let event = encode::event("/", None, "a", &long, &[], None);
        assert_eq!(compress(&event, 4096), None);
        let packed = compress(&event, 1024).unwrap();
        assert!(packed.len() < 100);
        assert_eq!(packed.as_bytes()[0], 0xc1, "text, with the bit of the extension");
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        })
        .take(2000)
        .collect();
        assert_eq!(compress(&encode::engine_binary(noise.into()), 1024), None);
    }
}
