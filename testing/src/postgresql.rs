//! A PostgreSQL server with durable settings: its own data folder, port and socket.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::host::{Port, need_package, own, scratch_folder, scratch_folder_in, wait_until};
use crate::process::Process;

/// Debian's wrapper, there with every version; the programs are in a folder of their version.
const PACKAGE_PROGRAM: &str = "/usr/share/postgresql-common/pg_wrapper";
const VERSIONS: &str = "/usr/lib/postgresql";
/// Of the package; the server refuses to run as root.
const SYSTEM_USER: &str = "postgres";
/// Two seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running server with the superuser roost, password roost.
#[derive(Debug)]
pub struct PostgreSql {
    server: Process,
    folder: TempDir,
    port: Port,
    certificate: Option<Certificate>,
}

impl PostgreSql {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not; with the end of its log.
    pub fn start() -> Self {
        Self::start_with(scratch_folder("postgresql"))
    }

    /// The same with everything it writes below `parent`, which its system user must be able to enter.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_in(parent: &Path) -> Self {
        Self::start_with(scratch_folder_in(parent, "postgresql"))
    }

    fn start_with(folder: TempDir) -> Self {
        if programs().is_none() {
            need_package(PACKAGE_PROGRAM, "postgresql");
        }
        let password = folder.path().join("password");
        std::fs::write(&password, "roost").expect("a file in the scratch folder");
        own(folder.path(), SYSTEM_USER);
        let installed = as_system_user("initdb")
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .args([
                "--username=roost",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .arg(format!("--pwfile={}", password.display()))
            .current_dir(folder.path())
            .output()
            .expect("initdb starts");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let port = Port::free();
        let server = start_server(folder.path(), &port);
        let mut postgresql = Self { server, folder, port, certificate: None };
        postgresql.wait_ready();
        postgresql
    }

    /// Of a database, with credentials.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://roost:roost@127.0.0.1:{}/{database}", self.port.number())
    }

    /// Runs statements in the database postgres.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, statements: &str) -> String {
        let done = self.client(statements);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{statements}: {errors}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// What it has logged.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("server.log")).expect("its log")
    }

    /// Its first process.
    pub fn process(&self) -> &Process {
        &self.server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// kill -9 of its first process; the others notice and end.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP of all its processes.
    pub fn pause(&self) {
        self.server.pause();
        self.server.children().for_each(|child| _ = kill_process(child, Signal::STOP));
    }

    /// SIGCONT of all its processes.
    pub fn resume(&self) {
        self.server.children().for_each(|child| _ = kill_process(child, Signal::CONT));
        self.server.resume();
    }

    /// Starts it again on the same port with the same data, after [`PostgreSql::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self) {
        self.server.kill();
        // Its processes notice that the first one is gone, and end; until then it cannot start again.
        let log = self.folder.path().join("server.log");
        wait_until("PostgreSQL starts again", READY_WITHIN, || {
            if self.server.ended().is_some() {
                self.server = start_server(self.folder.path(), &self.port);
            }
            self.client("SELECT 1").status.success()
        });
        self.server.must_run(&log);
    }

    /// Has it offer TLS, which its default rules then demand of nobody. Returns the authority that clients are to trust.
    ///
    /// # Panics
    /// When it does not.
    pub fn offer_tls(&mut self) -> PathBuf {
        let certificate = self.certificate.insert(Certificate::new(SYSTEM_USER));
        let authority = certificate.authority();
        let (file, key) = (certificate.certificate(), certificate.key());
        for setting in [
            format!("ssl_cert_file = '{}'", file.display()),
            format!("ssl_key_file = '{}'", key.display()),
            "ssl = on".to_owned(),
        ] {
            self.sql(&format!("ALTER SYSTEM SET {setting}"));
        }
        self.sql("SELECT pg_reload_conf()");
        wait_until("PostgreSQL offers TLS", READY_WITHIN, || self.sql("SHOW ssl").trim() == "on");
        authority
    }

    fn client(&self, statements: &str) -> std::process::Output {
        Command::new(program("psql"))
            .args(["--no-psqlrc", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"])
            .arg(self.url("postgres"))
            .args(["-c", statements])
            .stdin(Stdio::null())
            .output()
            .expect("the client starts")
    }

    fn wait_ready(&mut self) {
        let log = self.folder.path().join("server.log");
        wait_until("PostgreSQL answers", READY_WITHIN, || {
            self.server.must_run(&log);
            self.client("SELECT 1").status.success()
        });
    }
}

impl Drop for PostgreSql {
    /// Killed, it would leave a shared memory segment behind, of which the kernel has a limited number.
    fn drop(&mut self) {
        self.server.quit();
    }
}

fn start_server(folder: &Path, port: &Port) -> Process {
    let mut command = as_system_user("postgres");
    command
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.number().to_string(), "-h", "127.0.0.1"])
        .arg("-k")
        .arg(folder)
        .args(["-c", "shared_buffers=64MB", "-c", "fsync=on", "-c", "synchronous_commit=on"])
        // In its folder: what is in /dev/shm stays there when it is killed.
        .args(["-c", "dynamic_shared_memory_type=mmap"])
        .current_dir(folder);
    Process::start(&command, &folder.join("server.log"))
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("postgres").exists())
        .max()
}

fn program(name: &str) -> PathBuf {
    programs().expect("the programs of PostgreSQL").join(name)
}

fn as_system_user(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--clear-groups"])
        // Changing the user clears what the runner has set.
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program(name));
    command
}
