//! Tokens that callers bring back: opaque, good for one list or watch only, the same at every replica.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

const SEAL: usize = 8;

/// What tokens are good for.
#[derive(Clone)]
pub(super) struct Scope([u8; 32]);

impl Scope {
    /// The scope of these words, in their order.
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for word in words {
            hasher.update(&(word.len() as u64).to_be_bytes());
            hasher.update(word.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// A token that brings `text` back.
    pub(super) fn seal(&self, text: &str) -> String {
        let mut token = self.seal_of(text).to_vec();
        token.extend_from_slice(text.as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(token)
    }

    /// The text of a token; `None` for one that is broken or of another scope. It keeps mistakes out, not
    /// malice: a caller with the key may see whatever a token could name.
    pub(super) fn open(&self, token: &str) -> Option<String> {
        let token = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (seal, text) = token.split_at_checked(SEAL)?;
        let text = std::str::from_utf8(text).ok()?;
        (seal == self.seal_of(text)).then(|| text.to_owned())
    }

    fn seal_of(&self, text: &str) -> [u8; SEAL] {
        let mut seal = [0; SEAL];
        let hash = blake3::keyed_hash(&self.0, text.as_bytes());
        seal.copy_from_slice(&hash.as_bytes()[..SEAL]);
        seal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_scope_only() {
        let members = Scope::new(["members", "/chat", "lobby"]);
        for text in ["", "ada", "1-é\u{1}"] {
            let token = members.seal(text);
            assert_eq!(members.open(&token).as_deref(), Some(text));
            assert_eq!(Scope::new(["members", "/chatl", "obby"]).open(&token), None);
            assert_eq!(members.open(&token[1..]), None);
            assert_eq!(members.open(&format!("{token}A")), None);
        }
        assert_eq!(members.open("not base64!"), None);
        assert_eq!(members.open(""), None);
    }
}
