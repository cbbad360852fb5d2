//! One event on its way through the codec.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use sio::{
    engine,
    packet::{Limits, Packet, encode},
    ws::{Decoder, Message},
};

use crate::{edge, region};

/// In one region: a single one would be lost between the marks.
pub(crate) const EVENTS: usize = 1_000;

/// A WebSocket frame with a `message` event, down to its name, acknowledgement id and raw arguments.
pub(crate) fn decode(rounds: usize) -> Result<()> {
    let frame = edge::frame(&edge::message(17));
    let mut decoder = Decoder::new();
    for _ in 0..rounds {
        let mut events = 0;
        region::begin();
        for _ in 0..EVENTS {
            let mut input = black_box(frame.as_slice());
            if let Some(Message::Text(text)) = decoder.next(&mut input, 1_000_000)?
                && let engine::Packet::Text(text) = engine::Packet::decode_text(text)?
            {
                let decoded = black_box(Packet::decode(&text, &Limits::DEFAULT)?);
                events += usize::from(matches!(decoded.packet, Packet::Event { ack: Some(17), .. }));
            }
        }
        region::end();
        ensure!(events == EVENTS, "{events} events of {EVENTS} were decoded");
    }
    Ok(())
}

/// An event as all members of a room get it, recovery position and WebSocket header included.
pub(crate) fn encode(rounds: usize) -> Result<()> {
    let text = edge::message(17);
    let args = text
        .split_once(',')
        .and_then(|(_, event)| event.split_once(','))
        .and_then(|(_, args)| args.strip_suffix(']'))
        .context("an event has arguments")?;
    for _ in 0..rounds {
        region::begin();
        for _ in 0..EVENTS {
            let position = black_box(Some("aaaaaa.1.7-123456.1700000000000"));
            black_box(encode::event(
                black_box("/chat"),
                None,
                "message",
                black_box(args),
                &[],
                position,
            ));
        }
        region::end();
    }
    Ok(())
}
