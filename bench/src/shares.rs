//! Several processes of the generator as one: a process may hold only so many descriptors.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process,
};

use anyhow::{Context, Result, bail};

use crate::{
    cli::Core,
    procs::{Process, Sample},
    run::{Raw, Samples, Told},
    spec::{Share, Spec},
};

/// Lets `processes` children run a share each, and looks at the servers whenever all have reached a moment.
pub(crate) fn run_shares(
    spec: &Spec,
    servers: &[Process],
    processes: u32,
    pin: Core,
) -> Result<(Vec<Raw>, Samples)> {
    let mut children = (0..processes)
        .map(|index| Child::start(spec, index, processes, pin))
        .collect::<Result<Vec<_>>>()?;
    let mut samples = Samples::new();
    loop {
        let told = children.iter_mut().map(Child::told).collect::<Result<Vec<_>>>()?;
        let mut raws = Vec::new();
        let mut moments = Vec::new();
        for told in told {
            match told {
                Told::Reached(moment) => moments.push(moment),
                Told::Done(raw) => raws.push(*raw),
            }
        }
        match moments.first() {
            None => return Ok((raws, samples)),
            Some(moment) if raws.is_empty() => {
                samples.push((*moment, Sample::take(servers, moment.with_memory())?));
                for child in &mut children {
                    child.go()?;
                }
            }
            Some(moment) => bail!("some processes are done, others at {moment:?}"),
        }
    }
}

/// Ends when it is dropped.
struct Child {
    child: process::Child,
    stdin: process::ChildStdin,
    stdout: Lines<BufReader<process::ChildStdout>>,
}

impl Child {
    fn start(spec: &Spec, index: u32, of: u32, pin: Core) -> Result<Self> {
        let mut spec = spec.clone();
        spec.share = Share { index, of };
        let mut command = process::Command::new(std::env::current_exe()?);
        command.args(["bench", "share", "--pin", &pin.to_string()]);
        let mut child = command
            .stdin(process::Stdio::piped())
            .stdout(process::Stdio::piped())
            .spawn()?;
        crate::deploy::ends_with_this_process(child.id());
        let mut stdin = child.stdin.take().context("a child has no stdin")?;
        let stdout = child.stdout.take().context("a child has no stdout")?;
        writeln!(stdin, "{}", serde_json::to_string(&spec)?)?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
        })
    }

    fn told(&mut self) -> Result<Told> {
        match self.stdout.next() {
            Some(line) => Ok(serde_json::from_str(&line?)?),
            None => bail!("a process of the generator has ended; it says why above"),
        }
    }

    fn go(&mut self) -> Result<()> {
        writeln!(self.stdin)?;
        self.stdin.flush()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has ended, or ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
