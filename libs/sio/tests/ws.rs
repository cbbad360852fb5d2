//! RFC 6455 on the server's side, by section.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod frames;

use bytes::Bytes;
use frames::{Frame, close};
use sio::ws::{Decoder, Error, Message, frame};

const MAX: usize = 1000;

fn decode(stream: &[u8]) -> Result<Vec<Message>, Error> {
    let mut decoder = Decoder::new();
    let mut input = stream;
    let mut messages = Vec::new();
    while let Some(message) = decoder.next(&mut input, MAX)? {
        messages.push(message);
    }
    assert!(input.is_empty());
    Ok(messages)
}

fn text(text: &str) -> Message {
    Message::Text(text.into())
}

#[test]
fn examples_of_section_5_7() {
    let masked_hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&masked_hello), Ok(vec![text("Hello")]));
}

#[test]
fn messages_and_control_frames() {
    let table = [
        (Frame::text("héllo").bytes(), vec![text("héllo")]),
        (Frame::text("").bytes(), vec![text("")]),
        (
            Frame::binary(&[0; 200]).bytes(),
            vec![Message::Binary(vec![0; 200].into())],
        ),
        (
            Frame::binary(&[7; 1000]).bytes(),
            vec![Message::Binary(vec![7; 1000].into())],
        ),
        (
            Frame::ping(b"x").bytes(),
            vec![Message::Ping(Bytes::from_static(b"x"))],
        ),
        (Frame::pong(b"").bytes(), vec![Message::Pong(Bytes::new())]),
        (
            Frame::ping(&[1; 125]).bytes(),
            vec![Message::Ping(vec![1; 125].into())],
        ),
        (close(b""), vec![Message::Close(None)]),
        (close(b"\x03\xe8bye"), vec![Message::Close(Some(1000))]),
        (
            [Frame::text("a").bytes(), Frame::text("b").bytes()].concat(),
            vec![text("a"), text("b")],
        ),
        // 5.4: fragments, with control frames between them; a character may be cut
        (
            [
                Frame::text("").part().bytes(),
                Frame::continuation(&"é".as_bytes()[..1]).part().bytes(),
                Frame::ping(b"p").bytes(),
                Frame::continuation(&[]).part().bytes(),
                Frame::continuation(&"é".as_bytes()[1..]).bytes(),
                Frame::text("next").bytes(),
            ]
            .concat(),
            vec![Message::Ping(Bytes::from_static(b"p")), text("é"), text("next")],
        ),
    ];
    for (stream, expected) in table {
        assert_eq!(decode(&stream).as_ref(), Ok(&expected), "{stream:02x?}");
        let mut decoder = Decoder::new();
        let mut messages = Vec::new();
        for byte in &stream {
            messages.extend(decoder.next(&mut std::slice::from_ref(byte), MAX).unwrap());
        }
        assert_eq!(messages, expected, "byte by byte: {stream:02x?}");
    }
}

#[test]
fn violations() {
    let part = |frame: Frame| frame.part().bytes();
    let table: Vec<(&str, Vec<u8>, Error, u16)> = vec![
        ("5.1 not masked", vec![0x81, 0x01, b'x'], Error::Unmasked, 1002),
        ("5.1 not masked, empty", vec![0x81, 0x00], Error::Unmasked, 1002),
        ("5.2 RSV1", vec![0xc1], Error::ReservedBits, 1002),
        ("5.2 RSV2", vec![0xa1], Error::ReservedBits, 1002),
        ("5.2 RSV3", vec![0x91], Error::ReservedBits, 1002),
        ("5.2 opcode 3", vec![0x83], Error::UnknownOpcode, 1002),
        ("5.2 opcode 15", vec![0x8f], Error::UnknownOpcode, 1002),
        (
            "5.2 16-bit length for 2",
            Frame::text("ab").length_bytes(2).bytes(),
            Error::InvalidLength,
            1002,
        ),
        (
            "5.2 64-bit length for 2",
            Frame::text("ab").length_bytes(8).bytes(),
            Error::InvalidLength,
            1002,
        ),
        (
            "5.2 64-bit length for 65535",
            vec![0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            Error::InvalidLength,
            1002,
        ),
        (
            "5.2 highest bit",
            vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            Error::InvalidLength,
            1002,
        ),
        (
            "5.4 continuation of nothing",
            Frame::continuation(b"x").bytes(),
            Error::UnexpectedContinuation,
            1002,
        ),
        (
            "5.4 text in a text",
            [part(Frame::text("a")), Frame::text("b").bytes()].concat(),
            Error::ExpectedContinuation,
            1002,
        ),
        (
            "5.4 binary in a text",
            [part(Frame::text("a")), part(Frame::binary(b"b"))].concat(),
            Error::ExpectedContinuation,
            1002,
        ),
        (
            "5.4 continued too long",
            [Frame::text("a").bytes(), Frame::continuation(b"b").bytes()].concat(),
            Error::UnexpectedContinuation,
            1002,
        ),
        ("5.5 fragmented ping", vec![0x09], Error::FragmentedControl, 1002),
        ("5.5 fragmented close", vec![0x08], Error::FragmentedControl, 1002),
        ("5.5 long ping", vec![0x89, 0xfe], Error::ControlTooLong, 1002),
        ("5.5.1 half a code", close(b"x"), Error::InvalidClose, 1002),
        ("5.5.1 reason", close(b"\x03\xe8\xff"), Error::InvalidUtf8, 1007),
        ("7.4 code 0", close(&[0, 0]), Error::InvalidClose, 1002),
        (
            "7.4 code 999",
            close(&999_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 1004",
            close(&1004_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 1005",
            close(&1005_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 1006",
            close(&1006_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 1015",
            close(&1015_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 2999",
            close(&2999_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "7.4 code 5000",
            close(&5000_u16.to_be_bytes()),
            Error::InvalidClose,
            1002,
        ),
        (
            "8.1 not UTF-8",
            Frame::new(1, b"\xff").bytes(),
            Error::InvalidUtf8,
            1007,
        ),
        (
            "8.1 a surrogate",
            Frame::new(1, b"\xed\xa0\x80").bytes(),
            Error::InvalidUtf8,
            1007,
        ),
        (
            "8.1 cut at the end",
            [part(Frame::new(1, b"\xc3")), Frame::continuation(b"").bytes()].concat(),
            Error::InvalidUtf8,
            1007,
        ),
        (
            "10.4 too large",
            Frame::binary(&[0; 1001]).bytes(),
            Error::TooLarge,
            1009,
        ),
        (
            "10.4 too large in fragments",
            [
                part(Frame::binary(&[0; 600])),
                part(Frame::continuation(&[0; 401])),
            ]
            .concat(),
            Error::TooLarge,
            1009,
        ),
    ];
    for (name, stream, expected, code) in table {
        assert_eq!(decode(&stream), Err(expected), "{name}");
        assert_eq!(expected.close_code(), code, "{name}");
    }
}

#[test]
fn a_frame_too_large_is_refused_by_its_header() {
    for length in [1001_u64, 1 << 20, (1 << 63) - 1] {
        let mut header = vec![0x82, 0xff];
        header.extend(length.to_be_bytes());
        header.extend([0; 4]);
        let expected = if length > 65_535 {
            Error::TooLarge
        } else {
            Error::InvalidLength
        };
        assert_eq!(decode(&header), Err(expected));
    }
    assert_eq!(
        decode(&[0x82, 0xfe, 0x03, 0xe9, 0, 0, 0, 0]),
        Err(Error::TooLarge)
    );
}

#[test]
fn codes_that_may_be_sent() {
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999] {
        assert_eq!(
            decode(&close(&code.to_be_bytes())),
            Ok(vec![Message::Close(Some(code))])
        );
    }
}

#[test]
fn the_largest_message_passes_in_fragments() {
    let stream: Vec<u8> = std::iter::once(Frame::binary(&[]).part().bytes())
        .chain((0..MAX).map(|_| Frame::continuation(b"x").part().bytes()))
        .chain(std::iter::repeat_n(
            Frame::continuation(&[]).part().bytes(),
            10_000,
        ))
        .chain(std::iter::once(Frame::continuation(&[]).bytes()))
        .flatten()
        .collect();
    assert_eq!(decode(&stream), Ok(vec![Message::Binary(vec![b'x'; MAX].into())]));
}

#[test]
fn an_idle_decoder_is_a_pointer() {
    assert!(size_of::<Decoder>() <= size_of::<usize>());
}

#[test]
fn frames_of_a_server() {
    assert_eq!(&frame::close(1000, "bye")[..], b"\x88\x05\x03\xe8bye");
    assert_eq!(&frame::close(1001, "")[..], b"\x88\x02\x03\xe9");
    assert_eq!(&frame::pong(b"x")[..], b"\x8a\x01x");
    assert_eq!(frame::pong(&[0; 200]).len(), 127);
    let cut = frame::close(1000, &"é".repeat(100));
    assert_eq!((cut.len(), cut[1]), (126, 124), "cut between characters");
    assert!(std::str::from_utf8(&cut[4..]).is_ok());
}

#[test]
fn accept_key_of_section_1_3() {
    assert_eq!(
        frame::accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert_eq!(
        frame::accept_key(" dGhlIHNhbXBsZSBub25jZQ== "),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
}
