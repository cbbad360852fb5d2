//! Frames as a client sends them.
#![allow(dead_code, reason = "each test file takes its part")]

/// A masked frame in the making.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
    mask: [u8; 4],
    length_bytes: usize,
}

impl Frame {
    pub(crate) fn new(opcode: u8, payload: &[u8]) -> Self {
        let length_bytes = match payload.len() {
            0..=125 => 0,
            126..=65_535 => 2,
            _ => 8,
        };
        Self {
            fin: true,
            opcode,
            payload: payload.to_vec(),
            mask: [0x37, 0xfa, 0x21, 0x3d],
            length_bytes,
        }
    }

    pub(crate) fn text(text: &str) -> Self {
        Self::new(1, text.as_bytes())
    }

    pub(crate) fn binary(data: &[u8]) -> Self {
        Self::new(2, data)
    }

    pub(crate) fn continuation(data: &[u8]) -> Self {
        Self::new(0, data)
    }

    pub(crate) fn ping(data: &[u8]) -> Self {
        Self::new(9, data)
    }

    pub(crate) fn pong(data: &[u8]) -> Self {
        Self::new(10, data)
    }

    /// Not the last of its message.
    pub(crate) fn part(mut self) -> Self {
        self.fin = false;
        self
    }

    pub(crate) fn mask(mut self, mask: [u8; 4]) -> Self {
        self.mask = mask;
        self
    }

    /// Another length encoding than the shortest.
    pub(crate) fn length_bytes(mut self, length_bytes: usize) -> Self {
        self.length_bytes = length_bytes;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let len = self.payload.len() as u64;
        let mut out = vec![u8::from(self.fin) << 7 | self.opcode];
        match self.length_bytes {
            0 => out.push(0x80 | len.to_be_bytes()[7]),
            2 => {
                out.push(0x80 | 126);
                out.extend(&len.to_be_bytes()[6..]);
            }
            _ => {
                out.push(0x80 | 127);
                out.extend(len.to_be_bytes());
            }
        }
        out.extend(self.mask);
        out.extend(
            self.payload
                .iter()
                .zip(self.mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        out
    }
}

/// A close frame with this payload.
pub(crate) fn close(payload: &[u8]) -> Vec<u8> {
    Frame::new(8, payload).bytes()
}
