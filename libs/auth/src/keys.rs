//! Keys that tokens are checked with. What a key may be used for is a matter of the key and never of the token: a
//! secret checks HMAC, an RSA key RSA signatures, a key of a curve that curve's signatures.

use std::fmt;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// Keys of one JWKS that are looked at.
const MAX_KEYS: usize = 100;
/// Bits of RSA keys: fewer are too weak (RFC 7518 section 3.3), more are not supported by what checks them.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// A key and what it may be used for. Its `Debug` shows the id alone.
pub(crate) struct Key {
    /// None: fits whatever id a token names.
    pub(crate) id: Option<Box<str>>,
    pub(crate) algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl Key {
    /// A secret of HMAC.
    pub(crate) fn from_secret(secret: &str) -> Self {
        Self {
            id: None,
            algorithms: AlgorithmFamily::Hmac.algorithms().to_vec(),
            key: DecodingKey::from_secret(secret.as_bytes()),
        }
    }

    /// Every public key of a PEM file. Says what is wrong otherwise, without quoting it.
    pub(crate) fn from_pem(text: &str) -> Result<Vec<Self>, String> {
        const END: &str = "-----END ";
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(begin) = rest.find("-----BEGIN ") {
            let block = &rest[begin..];
            let end = block.find(END).ok_or("a block has no end")?;
            let end = block[end..].find('\n').map_or(block.len(), |line| end + line);
            keys.push(Self::from_block(&block[..end])?);
            rest = &block[end..];
        }
        if keys.is_empty() {
            return Err("there is no key in it (PEM)".to_owned());
        }
        Ok(keys)
    }

    fn from_block(block: &str) -> Result<Self, String> {
        let is = |label: &str| block.starts_with(&format!("-----BEGIN {label}-----"));
        if !is("PUBLIC KEY") && !is("RSA PUBLIC KEY") {
            return Err("every block must be a PUBLIC KEY".to_owned());
        }
        let pem = block.as_bytes();
        if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            return Self::checked(None, key, &[Algorithm::EdDSA]);
        }
        if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            return Self::checked(None, key, &[Algorithm::ES256, Algorithm::ES384]);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .map_err(|_| "a key is neither RSA nor P-256, P-384 or Ed25519".to_owned())?;
        Self::checked(None, key, AlgorithmFamily::Rsa.algorithms())
    }

    /// The keys of a JWKS that can be used for signatures; others are passed over. Secrets count where the set is
    /// `private`: one that is published is none.
    pub(crate) fn from_jwks(json: &[u8], private: bool) -> Result<Vec<Self>, String> {
        let set: Set = serde_json::from_slice(json).map_err(|_| "it is no JWKS".to_owned())?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let mut keys = Vec::new();
        for value in set.keys {
            match Self::from_jwk(value, private) {
                Ok(key) => keys.push(key),
                Err(why) => tracing::debug!(why, "a key of a JWKS is passed over"),
            }
        }
        if keys.is_empty() {
            return Err("there is no key for signatures in it".to_owned());
        }
        Ok(keys)
    }

    fn from_jwk(value: serde_json::Value, private: bool) -> Result<Self, String> {
        let jwk: Jwk = serde_json::from_value(value).map_err(|_| "it is no JWK".to_owned())?;
        let common = &jwk.common;
        if common
            .public_key_use
            .as_ref()
            .is_some_and(|of| *of != PublicKeyUse::Signature)
        {
            return Err("it is not for signatures".to_owned());
        }
        let operations = common.key_operations.as_ref();
        if operations.is_some_and(|all| !all.contains(&KeyOperations::Verify)) {
            return Err("it is not for checking signatures".to_owned());
        }
        let fits: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return Err("its curve is not supported".to_owned()),
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                &[Algorithm::EdDSA]
            }
            AlgorithmParameters::OctetKey(_) if private => AlgorithmFamily::Hmac.algorithms(),
            AlgorithmParameters::OctetKey(_) => return Err("a secret that is published is none".to_owned()),
            _ => return Err("its kind is not supported".to_owned()),
        };
        let named = match common.key_algorithm {
            Some(algorithm) => {
                Some(Algorithm::try_from(algorithm).map_err(|_| "its algorithm signs nothing".to_owned())?)
            }
            None => None,
        };
        let algorithms: Vec<Algorithm> = fits
            .iter()
            .copied()
            .filter(|algorithm| named.is_none_or(|named| named == *algorithm))
            .collect();
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| "it cannot be read".to_owned())?;
        Self::checked(common.key_id.as_deref().map(Into::into), key, &algorithms)
    }

    /// A key that checks signatures of at least one of `algorithms`, and which of them.
    fn checked(id: Option<Box<str>>, key: DecodingKey, algorithms: &[Algorithm]) -> Result<Self, String> {
        match (key.family(), key.kind()) {
            // Asked before it is tried: a shorter one would be a panic of what checks signatures.
            (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(bytes)) if bytes.len() != 32 => {
                return Err("an Ed25519 key has 32 bytes".to_owned());
            }
            (AlgorithmFamily::Rsa, kind) => {
                let bits = rsa_bits(kind).ok_or("an RSA key cannot be read")?;
                if !RSA_BITS.contains(&bits) {
                    return Err(format!("an RSA key has {bits} bits, not from 2048 to 4096"));
                }
            }
            (AlgorithmFamily::Hmac, DecodingKeyKind::SecretOrDer(bytes)) if bytes.is_empty() => {
                return Err("a secret is empty".to_owned());
            }
            _ => {}
        }
        let algorithms: Vec<Algorithm> = algorithms
            .iter()
            .copied()
            .filter(|algorithm| jsonwebtoken::crypto::verify("", &[], &key, *algorithm).is_ok())
            .collect();
        if algorithms.is_empty() {
            return Err("a key fits none of its algorithms".to_owned());
        }
        Ok(Self { id, algorithms, key })
    }

    /// Whether the key may check a token that names this algorithm and perhaps this key.
    pub(crate) fn fits(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let of_id = match (self.id.as_deref(), id) {
            (Some(own), Some(id)) => own == id,
            (None, _) | (_, None) => true,
        };
        of_id && self.algorithms.contains(&algorithm)
    }

    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        let holds = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm);
        self.algorithms.contains(&algorithm) && holds.unwrap_or(false)
    }
}

fn rsa_bits(kind: &DecodingKeyKind) -> Option<usize> {
    let modulus: &[u8] = match kind {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n,
        // RFC 8017 appendix A.1.1: a sequence that begins with the modulus.
        DecodingKeyKind::SecretOrDer(der) => {
            let (0x30, sequence, _) = element(der)? else {
                return None;
            };
            let (0x02, modulus, _) = element(sequence)? else {
                return None;
            };
            modulus
        }
    };
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.get(zeros)?;
    Some((modulus.len() - zeros) * 8 - usize::try_from(first.leading_zeros()).ok()?)
}

/// Tag, content and what follows of a DER element.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk()?;
    let (length, rest) = match length {
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        length => (usize::from(length), rest),
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}
