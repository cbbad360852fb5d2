use redis::Cmd;

/// A Lua script with the name its calls are counted under.
#[derive(Clone, Debug)]
pub struct Script {
    name: &'static str,
    source: &'static str,
    digest: String,
}

/// One call of a script.
pub(super) struct ScriptCall<'a> {
    script: &'a Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Script {
    /// A script from its source (`include_str!`). What it does must not hurt when it is done twice.
    #[must_use]
    pub fn new(name: &'static str, source: &'static str) -> Self {
        let digest = redis::Script::new(source).get_hash().to_owned();
        Self { name, source, digest }
    }

    /// What its calls are counted under.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn call(&self, keys: Vec<Vec<u8>>, args: Vec<Vec<u8>>) -> ScriptCall<'_> {
        ScriptCall {
            script: self,
            keys,
            args,
        }
    }
}

impl ScriptCall<'_> {
    pub(super) fn by_digest(&self) -> Cmd {
        self.command("EVALSHA", &self.script.digest)
    }

    /// With the source, which the server then knows by its digest.
    pub(super) fn by_source(&self) -> Cmd {
        self.command("EVAL", self.script.source)
    }

    fn command(&self, name: &str, what: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command
            .arg(what)
            .arg(self.keys.len())
            .arg(&self.keys)
            .arg(&self.args);
        command
    }
}
