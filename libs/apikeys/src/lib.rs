//! Who may call the Publisher and Presence APIs (CONTRACT sections 3 and 6): keys with scopes, compared in constant
//! time; without any key the APIs listen on loopback only. [`Caller::audit`] records who did what.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

pub use config::Scope;
use config::{Api, ApiKey, Secret};
use parking_lot::RwLock;

const SCHEME: &str = "bearer";
const ALL: [Scope; 3] = [Scope::Publish, Scope::Read, Scope::Admin];

/// The keys that are good. Cheap to clone; clones share them, so who renews them renews them for all.
#[derive(Clone, Debug, Default)]
pub struct Keys(Arc<RwLock<Arc<[Key]>>>);

/// Why keys cannot be renewed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("api.key, api.keys: without a key the APIs would be open where they listen: that takes a restart")]
pub struct LastKey;

#[derive(Debug)]
struct Key {
    name: Arc<str>,
    /// Hashes are compared in constant time, and of one length.
    hash: blake3::Hash,
    scopes: Vec<Scope>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    name: Arc<str>,
    scopes: Vec<Scope>,
}

/// Why somebody may not call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No key, or none that is known.
    #[error("the API key is missing or wrong: authorization: Bearer <key>")]
    Unknown,
    /// The key is not good for this.
    #[error("the API key {name:?} lacks scope {:?}", .scope.as_str())]
    Scope {
        /// Whose key.
        name: Arc<str>,
        /// What it would take.
        scope: Scope,
    },
}

impl Keys {
    /// Those of the configuration: `api.key`, which is good for everything, under that name, and `api.keys`.
    #[must_use]
    pub fn new(one: Option<&Secret>, named: &[ApiKey]) -> Self {
        Self(Arc::new(RwLock::new(read(one, named))))
    }

    /// What puts the keys of a new configuration in the place of those there are; until it is called nothing changes.
    /// A first key leaves the APIs where they listen.
    ///
    /// # Errors
    /// [`LastKey`]: where an API listens follows from there being keys (see [`Keys::listen_on`]).
    pub fn renewed(&self, api: &Api) -> Result<impl FnOnce() + use<>, LastKey> {
        let next = read(api.key.as_ref(), &api.keys);
        if next.is_empty() && !self.is_empty() {
            return Err(LastKey);
        }
        let keys = Arc::clone(&self.0);
        Ok(move || *keys.write() = next)
    }

    /// Whether there is none, so that everybody who reaches the API may use it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().is_empty()
    }

    /// Who shows this header `Authorization`. All keys are looked at, whichever it is.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn identify(&self, authorization: Option<&str>) -> Result<Caller, Denied> {
        let keys = Arc::clone(&self.0.read());
        if keys.is_empty() {
            return Ok(Caller::local("anyone"));
        }
        let shown = authorization.and_then(|value| {
            let (scheme, key) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case(SCHEME).then_some(key.trim())
        });
        let shown = blake3::hash(shown.ok_or(Denied::Unknown)?.as_bytes());
        let mut caller = Err(Denied::Unknown);
        for key in &*keys {
            if key.hash == shown {
                caller = Ok(Caller {
                    name: Arc::clone(&key.name),
                    scopes: key.scopes.clone(),
                });
            }
        }
        caller
    }

    /// Where an API may listen that was to listen on `address`: without a key on loopback only.
    #[must_use]
    pub fn listen_on(&self, address: SocketAddr) -> SocketAddr {
        if !self.is_empty() || address.ip().to_canonical().is_loopback() {
            return address;
        }
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        tracing::info!(wanted = %address, used = %local, "no API key: listening on loopback only");
        local
    }
}

fn read(one: Option<&Secret>, named: &[ApiKey]) -> Arc<[Key]> {
    let one = one.map(|key| Key {
        name: "api.key".into(),
        hash: blake3::hash(key.expose().as_bytes()),
        scopes: ALL.to_vec(),
    });
    let named = named.iter().map(|key| Key {
        name: key.name.as_str().into(),
        hash: blake3::hash(key.key.expose().as_bytes()),
        scopes: key.scopes.clone(),
    });
    one.into_iter().chain(named).collect()
}

impl Caller {
    /// Somebody within the system who needs no key and may do everything.
    #[must_use]
    pub fn local(name: &str) -> Self {
        Self {
            name: name.into(),
            scopes: ALL.to_vec(),
        }
    }

    /// Its key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may do what takes this scope.
    ///
    /// # Errors
    /// [`Denied::Scope`].
    pub fn allow(&self, scope: Scope) -> Result<(), Denied> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(Denied::Scope {
            name: Arc::clone(&self.name),
            scope,
        })
    }

    /// A line of the audit log, target `audit`: who did what, where, to how many, and how it ended. Never with what.
    pub fn audit(&self, operation: &str, namespace: &str, targets: usize, outcome: &str) {
        tracing::info!(
            target: "audit",
            key = &*self.name,
            operation,
            namespace,
            targets,
            outcome,
            "API call"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let web = ApiKey {
            name: "web".to_owned(),
            key: Secret::from("w".to_owned()),
            scopes: vec![Scope::Publish],
        };
        Keys::new(Some(&Secret::from("all".to_owned())), &[web])
    }

    #[test]
    fn who_calls_and_what_for() {
        let keys = keys();
        assert_eq!(
            keys.identify(Some("Bearer all")).unwrap(),
            Caller::local("api.key")
        );
        let web = keys.identify(Some("bearer  w ")).unwrap();
        assert_eq!(web.name(), "web");
        assert_eq!(web.allow(Scope::Publish), Ok(()));
        let denied = web.allow(Scope::Admin).unwrap_err();
        assert_eq!(denied.to_string(), r#"the API key "web" lacks scope "admin""#);
        for wrong in [
            None,
            Some(""),
            Some("all"),
            Some("Basic all"),
            Some("Bearer al"),
            Some("Bearer "),
        ] {
            assert_eq!(keys.identify(wrong), Err(Denied::Unknown), "{wrong:?}");
        }
    }

    #[test]
    fn renewed_keys_are_those_of_all_clones() {
        let keys = keys();
        let api = |key: Option<&str>| Api {
            key: key.map(|key| Secret::from(key.to_owned())),
            keys: Vec::new(),
            tls_cert: None,
            tls_key: None,
        };
        let put = keys.clone().renewed(&api(Some("new"))).unwrap();
        assert!(keys.identify(Some("Bearer all")).is_ok());
        put();
        assert!(keys.identify(Some("Bearer new")).is_ok());
        for gone in ["Bearer all", "Bearer w"] {
            assert_eq!(keys.identify(Some(gone)), Err(Denied::Unknown));
        }
        assert_eq!(keys.renewed(&api(None)).err(), Some(LastKey));
        assert!(keys.identify(Some("Bearer new")).is_ok());

        let none = Keys::default();
        none.renewed(&api(Some("first"))).unwrap()();
        assert_eq!(none.identify(None), Err(Denied::Unknown));
    }

    #[test]
    fn without_a_key_on_loopback_only() {
        let none = Keys::default();
        assert!(none.identify(None).is_ok());
        for (address, without) in [
            ("127.0.0.1:7004", "127.0.0.1:7004"),
            ("127.9.9.9:7004", "127.9.9.9:7004"),
            ("[::1]:7004", "[::1]:7004"),
            ("[::ffff:127.0.0.1]:7004", "[::ffff:127.0.0.1]:7004"),
            ("0.0.0.0:7004", "127.0.0.1:7004"),
            ("[::]:7004", "127.0.0.1:7004"),
            ("10.0.0.1:7004", "127.0.0.1:7004"),
        ] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(none.listen_on(address), without.parse().unwrap());
            assert_eq!(keys().listen_on(address), address);
        }
    }
}
