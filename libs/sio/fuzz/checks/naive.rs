//! The same rules again, written for clearness only: whole input at hand, value trees, no care for cost.

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use sio::packet::{EventName, Limits, Packet};
use sio::ws::Message;

use super::WsOutcome;

/// RFC 6455 section 5 on a whole stream.
pub(super) fn ws_messages(stream: &[u8], max: usize) -> WsOutcome {
    let mut messages = Vec::new();
    let error = ws_read(stream, max, &mut messages).err();
    (messages, error)
}

fn ws_read(stream: &[u8], max: usize, messages: &mut Vec<Message>) -> Result<(), u16> {
    let mut at = 0;
    let mut fragments: Option<(u8, Vec<u8>)> = None;
    loop {
        // What can be judged is judged byte by byte, so that half a header is refused for the same reason.
        let Some(&first) = stream.get(at) else {
            return Ok(());
        };
        let (fin, opcode) = (first >= 0x80, first & 0x0f);
        if first & 0x70 != 0 || !matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10) || (opcode >= 8 && !fin) {
            return Err(1002);
        }
        let Some(&second) = stream.get(at + 1) else {
            return Ok(());
        };
        let short = second & 0x7f;
        if second < 0x80 || (opcode >= 8 && short > 125) {
            return Err(1002);
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(extended) = stream.get(at + 2..at + 2 + length_bytes) else {
            return Ok(());
        };
        let extended = extended
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let len = if length_bytes == 0 {
            u64::from(short)
        } else {
            extended
        };
        let smallest = match length_bytes {
            2 => 126,
            8 => 65536,
            _ => 0,
        };
        if len < smallest || len >> 63 == 1 {
            return Err(1002);
        }
        let mask_at = at + 2 + length_bytes;
        let Some(mask) = stream.get(mask_at..mask_at + 4) else {
            return Ok(());
        };
        if (opcode == 0) != fragments.is_some() && opcode < 8 {
            return Err(1002);
        }
        let so_far = fragments.as_ref().map_or(0, |(_, payload)| payload.len());
        if opcode < 8 && so_far as u64 + len > max as u64 {
            return Err(1009);
        }
        let (start, len) = (mask_at + 4, usize::try_from(len).unwrap());
        let Some(payload) = stream.get(start..start + len) else {
            return Ok(());
        };
        at = start + len;
        let payload: Vec<u8> = payload
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ mask[i % 4])
            .collect();
        if opcode >= 8 {
            messages.push(control(opcode, payload)?);
            if opcode == 8 {
                return Ok(());
            }
            continue;
        }
        let (kind, mut message) = fragments.take().unwrap_or((opcode, Vec::new()));
        message.extend(payload);
        if !fin {
            fragments = Some((kind, message));
        } else if kind == 1 {
            let text = String::from_utf8(message).map_err(|_| 1007_u16)?;
            messages.push(Message::Text(text.into()));
        } else {
            messages.push(Message::Binary(message.into()));
        }
    }
}

fn control(opcode: u8, payload: Vec<u8>) -> Result<Message, u16> {
    match (opcode, payload.as_slice()) {
        (9, _) => Ok(Message::Ping(Bytes::from(payload))),
        (10, _) => Ok(Message::Pong(Bytes::from(payload))),
        (_, []) => Ok(Message::Close(None)),
        (_, [_]) => Err(1002),
        (_, [high, low, reason @ ..]) => {
            let code = u16::from(*high) << 8 | u16::from(*low);
            let reserved = [1004, 1005, 1006, 1015].contains(&code);
            if !(1000..5000).contains(&code) || (1015..3000).contains(&code) || reserved {
                return Err(1002);
            }
            std::str::from_utf8(reason).map_err(|_| 1007_u16)?;
            Ok(Message::Close(Some(code)))
        }
    }
}

/// What there is to a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    kind: &'static str,
    attachments: usize,
    namespace: String,
    id: Option<u64>,
    name: Option<String>,
    values: Vec<String>,
}

pub(super) enum Opinion {
    Packet(Summary),
    Refused,
    /// serde_json cannot build a tree of it, though it is JSON.
    None,
}

pub(super) fn summary(packet: &Packet, attachments: usize) -> Summary {
    let (kind, id, name, values) = match packet {
        Packet::Connect { auth, .. } => (
            "connect",
            None,
            None,
            auth.iter().map(ToString::to_string).collect(),
        ),
        Packet::Disconnect { .. } => ("disconnect", None, None, Vec::new()),
        Packet::ConnectError { data, .. } => (
            "connect_error",
            None,
            None,
            data.iter().map(ToString::to_string).collect(),
        ),
        Packet::Event { ack, name, args, .. } => {
            let name = match name {
                EventName::Text(name) => format!("text {name}"),
                EventName::Number(name) => format!("number {name}"),
            };
            (
                "event",
                *ack,
                Some(name),
                args.iter().map(ToOwned::to_owned).collect(),
            )
        }
        Packet::Ack { id, args, .. } => (
            "ack",
            Some(*id),
            None,
            args.iter().map(ToOwned::to_owned).collect(),
        ),
    };
    Summary {
        kind,
        attachments,
        namespace: packet.namespace().to_string(),
        id,
        name,
        values,
    }
}

/// `<type>[<n>-][<namespace>,][<id>][json]`
pub(super) fn packet(text: &str, limits: &Limits) -> Opinion {
    match read_packet(text, limits) {
        Ok(Some(summary)) => Opinion::Packet(summary),
        Ok(None) => Opinion::Refused,
        Err(NoTree) => Opinion::None,
    }
}

struct NoTree;

fn read_packet(text: &str, limits: &Limits) -> Result<Option<Summary>, NoTree> {
    let Some(kind) = text.chars().next() else {
        return Ok(None);
    };
    let Some(mut rest) = text.get(1..) else {
        return Ok(None);
    };
    let mut attachments = 0;
    if matches!(kind, '5' | '6') {
        let Some((count, after)) = rest.split_once('-') else {
            return Ok(None);
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(None);
        }
        attachments = count.parse().unwrap_or(usize::MAX);
        if attachments == 0 || attachments > limits.max_attachments {
            return Ok(None);
        }
        rest = after;
    }
    let mut namespace = "/".to_owned();
    if rest.starts_with('/') {
        let (name, after) = rest.split_once(',').unwrap_or((rest, ""));
        if name.len() > sio::packet::MAX_NAMESPACE_BYTES {
            return Ok(None);
        }
        namespace = name.split('?').next().unwrap_or_default().to_owned();
        rest = after;
    }
    let json = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &rest[..rest.len() - json.len()];
    let mut id = None;
    if !digits.is_empty() {
        match digits.parse::<u64>() {
            Ok(number) if number < 1 << 53 => id = Some(number),
            _ => return Ok(None),
        }
    }
    if depth(json) > limits.max_depth || json.starts_with([' ', '\t', '\n', '\r']) {
        return Ok(None);
    }
    let done = |kind, id, name, values| Summary {
        kind,
        attachments,
        namespace,
        id,
        name,
        values,
    };
    match kind {
        '0' | '4' => {
            let legal = if kind == '0' { &['{'][..] } else { &['{', '"'][..] };
            let kind = if kind == '0' { "connect" } else { "connect_error" };
            if json.is_empty() {
                return Ok(Some(done(kind, None, None, Vec::new())));
            }
            match serde_json::from_str::<&RawValue>(json) {
                Ok(value) if value.get().starts_with(legal) => {
                    Ok(Some(done(kind, None, None, vec![value.get().to_owned()])))
                }
                _ => Ok(None),
            }
        }
        '1' => Ok(json
            .is_empty()
            .then(|| done("disconnect", None, None, Vec::new()))),
        '2' | '3' | '5' | '6' => {
            let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(json) else {
                return Ok(None);
            };
            let mut values: Vec<String> = values.iter().map(|value| value.get().to_owned()).collect();
            let is_event = matches!(kind, '2' | '5');
            if values.len() > limits.max_args + usize::from(is_event) {
                return Ok(None);
            }
            let mut name = None;
            if is_event {
                if values.is_empty() {
                    return Ok(None);
                }
                name = event_name(&values.remove(0));
                if name.is_none() {
                    return Ok(None);
                }
            } else if id.is_none() {
                return Ok(None);
            }
            if attachments > 0 {
                for value in &values {
                    let value: Value = serde_json::from_str(value).map_err(|_| NoTree)?;
                    if !placeholders_legal(&value, attachments) {
                        return Ok(None);
                    }
                }
            }
            Ok(Some(done(
                if is_event { "event" } else { "ack" },
                id,
                name,
                values,
            )))
        }
        _ => Ok(None),
    }
}

fn event_name(raw: &str) -> Option<String> {
    if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Some(format!("number {raw}"));
    }
    let name: String = serde_json::from_str(raw).ok()?;
    let reserved = "connect connect_error disconnect disconnecting newListener removeListener";
    if reserved.split(' ').any(|word| word == name) {
        None
    } else {
        Some(format!("text {name}"))
    }
}

fn placeholders_legal(value: &Value, attachments: usize) -> bool {
    match value {
        Value::Array(items) => items.iter().all(|item| placeholders_legal(item, attachments)),
        Value::Object(fields) => {
            let num = fields.get("num").and_then(Value::as_f64);
            let legal = num.is_some_and(|num| (0..attachments).any(|index| index as f64 == num));
            (legal || fields.get("_placeholder") != Some(&Value::Bool(true)))
                && fields
                    .values()
                    .all(|field| placeholders_legal(field, attachments))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// Containers open at the deepest point; right for JSON, anything for what is not.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
