use std::{fmt, str::FromStr};

/// Where a span stands: its trace, its own id, and whether the trace is recorded (W3C Trace Context, "traceparent").
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

/// What is no `traceparent`.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no traceparent")]
pub struct TraceContextError;

impl TraceContext {
    /// The header that carries it, of HTTP, gRPC and NATS alike.
    pub const HEADER: &str = "traceparent";

    /// `None` when an id is all zeros, which names nothing.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], sampled: bool) -> Option<Self> {
        let named = trace_id != [0; 16] && span_id != [0; 8];
        named.then_some(Self {
            trace_id,
            span_id,
            sampled,
        })
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span within it.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether whoever made it records it.
    #[must_use]
    pub fn sampled(&self) -> bool {
        self.sampled
    }
}

/// As the header `traceparent`, version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let span_id = u64::from_be_bytes(self.span_id);
        write!(
            f,
            "00-{trace_id:032x}-{span_id:016x}-{:02x}",
            u8::from(self.sampled)
        )
    }
}

/// Reads a `traceparent` as strictly as the specification has it: lower-case digits, no id of zeros, nothing behind
/// version 00. Of a later version the same fields are read; what follows them is not.
impl FromStr for TraceContext {
    type Err = TraceContextError;

    fn from_str(text: &str) -> Result<Self, TraceContextError> {
        let bytes = text.as_bytes();
        let (fields, rest) = bytes.split_at_checked(55).ok_or(TraceContextError)?;
        let dashes = [2, 35, 52].iter().all(|&at| fields[at] == b'-');
        let [version] = digits(&fields[..2])?;
        let ends = if version == 0 {
            rest.is_empty()
        } else {
            version != 0xff && (rest.is_empty() || rest[0] == b'-')
        };
        if !dashes || !ends {
            return Err(TraceContextError);
        }
        let [flags] = digits(&fields[53..])?;
        Self::new(digits(&fields[3..35])?, digits(&fields[36..52])?, flags & 1 == 1).ok_or(TraceContextError)
    }
}

/// Two lower-case hexadecimal digits a byte.
fn digits<const N: usize>(text: &[u8]) -> Result<[u8; N], TraceContextError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(TraceContextError),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_specification() {
        let context: TraceContext = EXAMPLE.parse().unwrap();
        assert!(context.sampled());
        assert_eq!(context.trace_id()[..2], [0x0a, 0xf7]);
        assert_eq!(context.span_id()[..2], [0xb7, 0xad]);
        assert_eq!(context.to_string(), EXAMPLE);
    }

    #[test]
    fn flags_and_later_versions() {
        let read = |text: &str| text.parse::<TraceContext>();
        let with = |version: &str, rest: &str| format!("{version}{}{rest}", &EXAMPLE[2..53]);
        assert!(!read(&with("00", "00")).unwrap().sampled());
        assert!(read(&with("00", "ff")).unwrap().sampled());
        assert!(read(&with("01", "01-what comes later")).unwrap().sampled());
        assert!(read(&with("cc", "01")).is_ok());
    }

    #[test]
    fn what_is_none_is_refused() {
        let zero_trace = EXAMPLE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = EXAMPLE.replace("b7ad6b7169203331", &"0".repeat(16));
        let upper = EXAMPLE.to_uppercase();
        let longer = format!("{EXAMPLE}-");
        let refused = [
            "",
            "00",
            &EXAMPLE[..54],
            &longer,
            &upper,
            &zero_trace,
            &zero_span,
            &EXAMPLE.replacen("00", "ff", 1),
            &EXAMPLE.replacen("00-", "00_", 1),
            &EXAMPLE.replace("-01", "-0g"),
            &EXAMPLE.replacen("00", "01", 1).replace("3331-01", "3331-01x"),
            "00-0af7651916cd43dd8448eb211c80319ü-b7ad6b7169203331-01",
        ];
        for text in refused {
            assert_eq!(text.parse::<TraceContext>(), Err(TraceContextError), "{text}");
        }
    }
}
