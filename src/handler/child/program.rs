//! The program that is started: its file, arguments, environment and limits.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use tokio::net::unix::pipe;
use tokio_util::task::TaskTracker;

use super::{Child, Ending, Leader};
use crate::{
    config::{Findings, KeyPath, Secret},
    handler::Reached,
};

/// A program, as the settings say.
#[derive(Clone)]
pub(in crate::handler) struct Program {
    /// The program's file.
    file: PathBuf,
    /// What is started: the program, or a shell that becomes it.
    path: PathBuf,
    arguments: Vec<String>,
    directory: Option<PathBuf>,
    environment: Environment,
    /// The time between SIGTERM and SIGKILL.
    grace: Duration,
    /// The ends of programs whose handlers have not waited for them.
    pub(in crate::handler) ends: TaskTracker,
}

/// The variables of a program that do not depend on the message.
#[derive(Clone, Debug, Default)]
pub(in crate::handler) struct Environment {
    /// Variables with their values.
    pub(in crate::handler) set: BTreeMap<String, Secret>,
    /// Variables of the worker that the program gets too.
    pub(in crate::handler) passed: Vec<String>,
}

/// What a program may use.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::handler) struct Limits {
    /// Bytes of memory that a process may write to.
    pub(in crate::handler) memory: Option<u64>,
    /// Seconds of CPU time.
    pub(in crate::handler) cpu: Option<u64>,
}

impl Program {
    /// Finds the program's file.
    ///
    /// # Errors
    /// The reason, if there is no such program.
    pub(in crate::handler) fn find(argv: &[String]) -> Result<Self, String> {
        let Some((name, arguments)) = argv.split_first() else {
            return Err("is empty".to_owned());
        };
        let file = find(name)?;
        Ok(Self {
            path: file.clone(),
            file,
            arguments: arguments.to_vec(),
            directory: None,
            environment: Environment::default(),
            grace: Duration::ZERO,
            ends: TaskTracker::new(),
        })
    }

    /// Whether the program can be started: its file, and the interpreter that a script names in its
    /// first line. Starts nothing.
    ///
    /// # Errors
    /// What is missing.
    pub(in crate::handler) fn reach(&self) -> Result<Reached, String> {
        let path = self.file.display();
        if let Some(interpreter) = interpreter(&self.file)
            && !is_program(&interpreter).unwrap_or(false)
        {
            let interpreter = interpreter.display();
            return Err(format!(
                "{path} names {interpreter} in its first line, which is not an executable file"
            ));
        }
        Ok(Reached {
            what: format!("{path} is an executable file"),
            certificates: Vec::new(),
            is_away: false,
        })
    }

    pub(in crate::handler) fn within(mut self, directory: Option<PathBuf>) -> Self {
        self.directory = directory;
        self
    }

    pub(in crate::handler) fn environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// With limits, a shell sets them and becomes the program. Its script is fixed: the program's
    /// file and arguments are its parameters, which it does not read.
    pub(in crate::handler) fn limits(mut self, limits: Limits) -> Self {
        if let Some(script) = limits.script() {
            let program = self.path.display().to_string();
            let before = ["-c".to_owned(), script, "sh".to_owned(), program];
            self.arguments.splice(0..0, before);
            self.path = SHELL.into();
        }
        self
    }

    pub(in crate::handler) fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts the program, with these variables in addition to those of the settings.
    pub(in crate::handler) fn start(
        &self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> io::Result<Child> {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let passed = self.environment.passed.iter();
        command.envs(passed.filter_map(|name| Some((name, env::var_os(name)?))));
        let set = self.environment.set.iter();
        command.envs(set.map(|(name, value)| (name, value.expose())));
        command.envs(variables);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        self.watch(command.spawn()?)
    }

    /// Takes charge of a process that was started.
    pub(super) fn watch(&self, mut process: process::Child) -> io::Result<Child> {
        let pipes = (
            process.stdin.take(),
            process.stdout.take(),
            process.stderr.take(),
        );
        // From here on an error ends the program.
        let ending = Ending {
            leader: Some(Leader::new(process)),
            grace: self.grace,
            ends: self.ends.clone(),
        };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("the program has no pipes"));
        };
        Ok(Child {
            stdin: Some(pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?),
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?,
            ending,
        })
    }
}

impl Limits {
    /// The script that sets the limits, for itself and so for the program that it becomes. Only the
    /// process itself can do this before its first step.
    fn script(self) -> Option<String> {
        let memory = self
            .memory
            .map(|bytes| format!("ulimit -d {}", bytes / 1024));
        // SIGXCPU at the limit, and SIGKILL a second later.
        let cpu = self.cpu.map(|seconds| {
            let last = seconds.saturating_add(1);
            format!("ulimit -St {seconds} && ulimit -Ht {last}")
        });
        let limits: Vec<_> = memory.into_iter().chain(cpu).collect();
        (!limits.is_empty()).then(|| format!("{} && exec \"$@\"", limits.join(" && ")))
    }
}

/// The program's file: as it is, if the name has a slash, or else found in the worker's `PATH`.
fn find(name: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = std::path::absolute(name).map_err(|error| error.to_string())?;
        return match is_program(&path) {
            Ok(true) => Ok(path),
            Ok(false) => Err(format!("{} is not an executable file", path.display())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        };
    }
    let paths = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = env::split_paths(&paths)
        .map(|folder| folder.join(name))
        .find(|path| is_program(path).is_ok_and(|is| is));
    let found = found.and_then(|path| std::path::absolute(path).ok());
    found.ok_or_else(|| format!("there is no program `{name}` in the worker's PATH"))
}

/// The interpreter of a script.
fn interpreter(script: &Path) -> Option<PathBuf> {
    /// The longest first line that Linux reads.
    const LONGEST: u64 = 256;
    let mut line = Vec::new();
    let file = std::fs::File::open(script).ok()?;
    file.take(LONGEST).read_to_end(&mut line).ok()?;
    let line = line.strip_prefix(b"#!")?;
    let line = line.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_whitespace().next().map(PathBuf::from)
}

fn is_program(path: &Path) -> io::Result<bool> {
    let about = path.metadata()?;
    Ok(about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// The shell that sets limits.
const SHELL: &str = "/bin/sh";

/// The beginning of the names of variables about the message.
pub(in crate::handler) const PREFIX: &str = "LAPWING_";
/// The variables of the trace context.
pub(in crate::handler) const TRACE: [&str; 2] = ["TRACEPARENT", "TRACESTATE"];

/// Checks the settings `argv`, `env`, `pass_env` and `directory` of a kind of handler.
pub(in crate::handler) fn check_environment(
    findings: &mut Findings,
    path: &KeyPath,
    argv: &[String],
    environment: &Environment,
    directory: Option<&Path>,
) {
    let at = path.key("argv");
    if argv.iter().any(|argument| argument.contains('\0')) {
        findings.add(at, "must not hold the character NUL");
    } else if !argv.is_empty()
        && let Err(reason) = Program::find(argv)
    {
        findings.add(at, reason);
    }
    for (name, value) in &environment.set {
        let at = path.key("env").key(name);
        if let Some(reason) = refused(name) {
            findings.add(at, reason);
        } else if value.expose().contains('\0') {
            findings.add(at, "must not hold the character NUL");
        }
    }
    for (index, name) in environment.passed.iter().enumerate() {
        if let Some(reason) = refused(name) {
            findings.add(path.key("pass_env").index(index), reason);
        }
    }
    if let Some(directory) = directory
        && !directory.is_dir()
    {
        let reason = format!("{} is no directory", directory.display());
        findings.add(path.key("directory"), reason);
    }
}

/// The reason why a variable cannot have this name.
fn refused(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Some("is not the name of a variable");
    }
    let is_own = name.starts_with(PREFIX) || TRACE.contains(&name);
    is_own.then_some("lapwing sets this variable itself")
}
