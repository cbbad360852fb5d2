//! Costs of the codec on the way of one event. Run with `cargo bench -p sio`.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![allow(clippy::expect_used, reason = "inputs are fixed")]

use std::hint::black_box;

use bytes::Bytes;
use bytestring::ByteString;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::value::RawValue;
use sio::engine::payload;
use sio::packet::{Limits, Packet, encode};
use sio::ws::Decoder;

fn typical_args() -> String {
    r#"{"roomId":"team-42","content":"Good morning, everybody! Coffee is ready.","clientId":"c-0001","type":"text"}"#
        .to_owned()
}

fn masked_text(payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(len @ 0..126) => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let json = format!(r#"["message",{}]"#, typical_args());
    let text = ByteString::from(format!("2/chat,17{json}"));
    let limits = Limits::DEFAULT;
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("typical event", |b| {
        b.iter(|| Packet::decode(black_box(&text), &limits))
    });
    group.bench_function("typical event, array by serde_json RawValue", |b| {
        b.iter(|| serde_json::from_str::<Vec<&RawValue>>(black_box(&json)).map(|values| values.len()));
    });

    let numbers = (0..2000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let large = ByteString::from(format!(
        r#"2["state",{{"points":[{numbers}],"text":"{}"}}]"#,
        "x".repeat(8000)
    ));
    group.throughput(Throughput::Bytes(large.len() as u64));
    group.bench_function("event of 17 KB", |b| {
        b.iter(|| Packet::decode(black_box(&large), &limits))
    });
    group.finish();
}

fn encode_event(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode");
    let args = format!(r#""{}""#, "x".repeat(126));
    group.bench_function("event with 128 bytes of arguments", |b| {
        b.iter(|| {
            encode::event(
                black_box("/chat"),
                None,
                "message",
                black_box(&args),
                &[],
                Some("7-123456"),
            )
        });
    });
    let attachment = [Bytes::from(vec![7; 1024])];
    group.bench_function("event with 1 KiB attached", |b| {
        b.iter(|| {
            encode::event(
                "/",
                None,
                "file",
                r#"{"_placeholder":true,"num":0}"#,
                black_box(&attachment),
                None,
            )
        });
    });
    group.finish();
}

fn ws_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("ws decode");
    for (name, len) in [("128 bytes", 128), ("16 KiB", 16 * 1024)] {
        let frame = masked_text("x".repeat(len).as_bytes());
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |b| {
            let mut decoder = Decoder::new();
            b.iter(|| decoder.next(&mut black_box(frame.as_slice()), 1_000_000));
        });
        group.bench_function(format!("{name} in two reads"), |b| {
            let mut decoder = Decoder::new();
            let (first, second) = frame.split_at(frame.len() / 2);
            b.iter(|| {
                let started = decoder.next(&mut black_box(first), 1_000_000);
                (started, decoder.next(&mut black_box(second), 1_000_000))
            });
        });
    }
    group.finish();
}

fn polling(c: &mut Criterion) {
    let mut group = c.benchmark_group("payload");
    let event = encode::event("/chat", None, "message", &typical_args(), &[], None);
    group.bench_function("encode 16 events", |b| {
        b.iter(|| payload::encode((0..16).flat_map(|_| black_box(&event).frames())));
    });
    let body = Bytes::from(payload::encode((0..16).flat_map(|_| event.frames())));
    group.bench_function("decode 16 events", |b| {
        b.iter(|| payload::decode(black_box(&body).clone()))
    });
    group.finish();
}

criterion_group!(benches, decode, encode_event, ws_decode, polling);
criterion_main!(benches);
