//! A strict JSON scanner (RFC 8259) that validates and splits without building values.
//!
//! Every function works on byte offsets of a UTF-8 text and is linear in its length; none recurses.

use smallvec::SmallVec;

/// More levels than this are refused whatever the configured limit: open containers are the bits of a `u128`.
pub(crate) const MAX_DEPTH: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// Not JSON.
    Syntax,
    /// More nested containers than allowed.
    TooDeep,
    /// More elements than allowed.
    TooMany,
}

/// Where the elements of a list are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements {
    /// Start and end of the first element; `None` when the list is empty.
    pub(crate) first: Option<(usize, usize)>,
    /// Start and end of the elements after the first; equal when there are none.
    pub(crate) rest: (usize, usize),
}

/// Scans an array that must fill the text from `at` on; its elements may nest `max_depth - 1` levels.
pub(crate) fn array(text: &[u8], at: usize, max_depth: usize, max_items: usize) -> Result<Elements, Error> {
    if text.get(at) != Some(&b'[') {
        return Err(Error::Syntax);
    }
    let Some(inner_depth) = max_depth.checked_sub(1) else {
        return Err(Error::TooDeep);
    };
    let (elements, end) = elements(text, at + 1, Some(b']'), inner_depth, max_items)?;
    if end != text.len() {
        return Err(Error::Syntax);
    }
    Ok(elements)
}

/// Scans comma-separated values up to `closer` (or the end of the text), and the white space after it.
pub(crate) fn elements(
    text: &[u8],
    at: usize,
    closer: Option<u8>,
    max_depth: usize,
    max_items: usize,
) -> Result<(Elements, usize), Error> {
    let mut i = skip_whitespace(text, at);
    let mut found = Elements {
        first: None,
        rest: (i, i),
    };
    let closes = |i: usize| text.get(i).copied() == closer;
    if !closes(i) {
        let mut count = 0;
        loop {
            count += 1;
            if count > max_items {
                return Err(Error::TooMany);
            }
            let end = skip_value(text, i, max_depth)?;
            match count {
                1 => {
                    found.first = Some((i, end));
                    found.rest = (end, end);
                }
                2 => found.rest = (i, end),
                _ => found.rest.1 = end,
            }
            i = skip_whitespace(text, end);
            if closes(i) {
                break;
            }
            if text.get(i) != Some(&b',') {
                return Err(Error::Syntax);
            }
            i = skip_whitespace(text, i + 1);
        }
    }
    if closer.is_some() {
        i = skip_whitespace(text, i + 1);
    }
    Ok((found, i))
}

/// Returns the offset after the value that starts at `at` (no white space before it).
pub(crate) fn skip_value(text: &[u8], at: usize, max_depth: usize) -> Result<usize, Error> {
    let max_depth = max_depth.min(MAX_DEPTH);
    let mut open: u128 = 0; // the lowest bit is the innermost container: 1 for an object, 0 for an array
    let mut depth = 0;
    let mut i = at;
    loop {
        match text.get(i) {
            Some(&start @ (b'{' | b'[')) => {
                if depth == max_depth {
                    return Err(Error::TooDeep);
                }
                let is_object = start == b'{';
                i = skip_whitespace(text, i + 1);
                if text.get(i) == Some(if is_object { &b'}' } else { &b']' }) {
                    i += 1;
                } else {
                    depth += 1;
                    open = open << 1 | u128::from(is_object);
                    if is_object {
                        i = skip_key(text, i)?;
                    }
                    continue;
                }
            }
            Some(b'"') => i = skip_string(text, i + 1)?,
            Some(b'-' | b'0'..=b'9') => i = skip_number(text, i)?,
            Some(b't') => i = skip_literal(text, i, b"true")?,
            Some(b'f') => i = skip_literal(text, i, b"false")?,
            Some(b'n') => i = skip_literal(text, i, b"null")?,
            _ => return Err(Error::Syntax),
        }
        loop {
            if depth == 0 {
                return Ok(i);
            }
            i = skip_whitespace(text, i);
            match (text.get(i), open & 1 == 1) {
                (Some(b','), is_object) => {
                    i = skip_whitespace(text, i + 1);
                    if is_object {
                        i = skip_key(text, i)?;
                    }
                    break;
                }
                (Some(b'}'), true) | (Some(b']'), false) => {
                    depth -= 1;
                    open >>= 1;
                    i += 1;
                }
                _ => return Err(Error::Syntax),
            }
        }
    }
}

pub(crate) fn skip_whitespace(text: &[u8], mut i: usize) -> usize {
    while matches!(text.get(i), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        i += 1;
    }
    i
}

/// Splits the first value off valid, trimmed, comma-separated JSON: the value, and what follows its comma.
pub(crate) fn split_first(list: &str) -> (&str, &str) {
    let text = list.as_bytes();
    let mut depth = 0_usize;
    let mut i = 0;
    while let Some(byte) = text.get(i) {
        match byte {
            b'"' => match skip_string(text, i + 1) {
                Ok(end) => {
                    i = end;
                    continue;
                }
                Err(_) => break,
            },
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                let (value, rest) = list.split_at(i);
                return (value.trim_ascii_end(), rest[1..].trim_ascii_start());
            }
            _ => {}
        }
        i += 1;
    }
    (list, "")
}

/// Whether every object of the valid list that says `"_placeholder": true` has a `"num"` below `attachments`.
pub(crate) fn placeholders_in_range(list: &str, attachments: usize) -> bool {
    enum Level {
        Array,
        Object { placeholder: bool, in_range: bool },
    }
    #[derive(Clone, Copy)]
    enum Key {
        Placeholder,
        Num,
        Other,
    }
    let text = list.as_bytes();
    let mut levels: SmallVec<[Level; 16]> = SmallVec::new();
    let mut key = Key::Other;
    let mut expects_key = false;
    let mut i = 0;
    while let Some(&byte) = text.get(i) {
        let start = i;
        let mut opened = None;
        match byte {
            b'{' => {
                opened = Some(Level::Object {
                    placeholder: false,
                    in_range: false,
                });
                i += 1;
            }
            b'[' => {
                opened = Some(Level::Array);
                i += 1;
            }
            b'}' | b']' => {
                if matches!(
                    levels.pop(),
                    Some(Level::Object {
                        placeholder: true,
                        in_range: false
                    })
                ) {
                    return false;
                }
                expects_key = false;
                i += 1;
                continue;
            }
            b',' => {
                expects_key = matches!(levels.last(), Some(Level::Object { .. }));
                i += 1;
                continue;
            }
            b':' | b' ' | b'\t' | b'\n' | b'\r' => {
                i += 1;
                continue;
            }
            b'"' => {
                let Ok(end) = skip_string(text, i + 1) else {
                    return false;
                };
                i = end;
                if expects_key {
                    key = match unescape(&list[start..end]).as_deref() {
                        Some("_placeholder") => Key::Placeholder,
                        Some("num") => Key::Num,
                        _ => Key::Other,
                    };
                    expects_key = false;
                    continue;
                }
            }
            _ => {
                while matches!(
                    text.get(i),
                    Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E')
                ) {
                    i += 1;
                }
                if i == start {
                    return false;
                }
            }
        }
        // A value starts at `start`; the last one wins when a key repeats, as in JSON.parse.
        if let Some(Level::Object {
            placeholder,
            in_range,
        }) = levels.last_mut()
        {
            match key {
                Key::Placeholder => *placeholder = &text[start..i] == b"true",
                Key::Num => *in_range = is_index(&list[start..i], attachments),
                Key::Other => {}
            }
        }
        key = Key::Other;
        if let Some(level) = opened {
            expects_key = matches!(level, Level::Object { .. });
            levels.push(level);
        }
    }
    true
}

/// The text of a quoted JSON string; `None` when it holds a lone surrogate, which no UTF-8 text can.
pub(crate) fn unescape(quoted: &str) -> Option<std::borrow::Cow<'_, str>> {
    let inner = quoted.get(1..quoted.len().checked_sub(1)?)?;
    if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
        return Some(inner.into());
    }
    serde_json::from_str::<String>(quoted).ok().map(Into::into)
}

/// Appends `text` as a quoted JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))
    {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        match special[0] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = &special[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// A JSON number that is an index below `len`; `0`, `1.0` and `1e0` are all numbers to JSON.parse.
fn is_index(raw: &str, len: usize) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "the count of attachments is small")]
    let len = len as f64;
    raw.parse::<f64>()
        .is_ok_and(|number| number >= 0.0 && number < len && number.fract() == 0.0)
}

/// From a key's opening quote to the start of its value.
fn skip_key(text: &[u8], at: usize) -> Result<usize, Error> {
    if text.get(at) != Some(&b'"') {
        return Err(Error::Syntax);
    }
    let colon = skip_whitespace(text, skip_string(text, at + 1)?);
    if text.get(colon) != Some(&b':') {
        return Err(Error::Syntax);
    }
    Ok(skip_whitespace(text, colon + 1))
}

/// From after the opening quote to after the closing one.
fn skip_string(text: &[u8], mut i: usize) -> Result<usize, Error> {
    loop {
        while let Some(word) = text.get(i..).and_then(<[u8]>::first_chunk::<8>) {
            let stops = string_stops(u64::from_le_bytes(*word));
            if stops != 0 {
                i += (stops.trailing_zeros() / 8) as usize;
                break;
            }
            i += 8;
        }
        match text.get(i) {
            Some(b'"') => return Ok(i + 1),
            Some(b'\\') => match text.get(i + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => i += 2,
                Some(b'u') => match text.get(i + 2..i + 6) {
                    Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => i += 6,
                    _ => return Err(Error::Syntax),
                },
                _ => return Err(Error::Syntax),
            },
            Some(0..=0x1f) | None => return Err(Error::Syntax),
            Some(_) => i += 1,
        }
    }
}

/// The high bit of each byte that ends a plain run (quote, backslash, control), exact up to the first one.
fn string_stops(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, 0x20) | equal(b'"') | equal(b'\\')
}

fn skip_number(text: &[u8], mut i: usize) -> Result<usize, Error> {
    let digits = |from: usize| {
        let mut end = from;
        while matches!(text.get(end), Some(b'0'..=b'9')) {
            end += 1;
        }
        if end == from { Err(Error::Syntax) } else { Ok(end) }
    };
    if text.get(i) == Some(&b'-') {
        i += 1;
    }
    i = if text.get(i) == Some(&b'0') {
        i + 1
    } else {
        digits(i)?
    };
    if text.get(i) == Some(&b'.') {
        i = digits(i + 1)?;
    }
    if matches!(text.get(i), Some(b'e' | b'E')) {
        i += 1;
        if matches!(text.get(i), Some(b'+' | b'-')) {
            i += 1;
        }
        i = digits(i)?;
    }
    Ok(i)
}

fn skip_literal(text: &[u8], at: usize, literal: &[u8]) -> Result<usize, Error> {
    let end = at + literal.len();
    if text.get(at..end) == Some(literal) {
        Ok(end)
    } else {
        Err(Error::Syntax)
    }
}
