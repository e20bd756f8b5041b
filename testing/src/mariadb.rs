//! A MariaDB server with durable settings: its own data folder, port and socket.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::host::{Port, need_package, own, scratch_folder, scratch_folder_in, wait_until};
use crate::process::Process;

const SERVER: &str = "/usr/sbin/mariadbd";
const INSTALL: &str = "/usr/bin/mariadb-install-db";
const CLIENT: &str = "/usr/bin/mariadb";
/// Of the package; the server does not run as root.
const SYSTEM_USER: &str = "mysql";
/// Two seconds on a quiet machine.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A running server with the user roost, password roost, who may do everything.
#[derive(Debug)]
pub struct MariaDb {
    server: Process,
    folder: TempDir,
    port: Port,
    certificate: Option<Certificate>,
}

impl MariaDb {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When it does not; with the end of its log.
    pub fn start() -> Self {
        Self::start_with(scratch_folder("mariadb"))
    }

    /// The same with everything it writes below `parent`, which its system user must be able to enter.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start_in(parent: &Path) -> Self {
        Self::start_with(scratch_folder_in(parent, "mariadb"))
    }

    fn start_with(folder: TempDir) -> Self {
        need_package(SERVER, "mariadb-server");
        own(folder.path(), SYSTEM_USER);
        let installed = Command::new(INSTALL)
            .arg("--no-defaults")
            .arg(format!("--datadir={}", folder.path().join("data").display()))
            .arg(format!("--user={SYSTEM_USER}"))
            // Every server that starts removes what looks like its own leftovers from the shared one.
            .arg(format!("--tmpdir={}", folder.path().display()))
            .args(["--skip-test-db", "--auth-root-authentication-method=normal"])
            .output()
            .expect("mariadb-install-db starts");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let port = Port::free();
        let server = start_server(folder.path(), &port, None);
        let mut mariadb = Self { server, folder, port, certificate: None };
        mariadb.wait_ready();
        mariadb.sql(
            "CREATE USER roost@localhost IDENTIFIED BY 'roost'; CREATE USER roost@'127.0.0.1' IDENTIFIED BY 'roost'; \
             GRANT ALL ON *.* TO roost@localhost WITH GRANT OPTION; GRANT ALL ON *.* TO roost@'127.0.0.1' WITH GRANT OPTION;",
        );
        mariadb
    }

    /// Of a database, with credentials.
    pub fn url(&self, database: &str) -> String {
        format!("mysql://roost:roost@127.0.0.1:{}/{database}", self.port.number())
    }

    /// Runs statements as root.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, statements: &str) -> String {
        let done = self.client(statements);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{statements}: {errors}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.server
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.resume();
    }

    /// Starts it again on the same port with the same data, after [`MariaDb::kill`].
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self) {
        self.server.kill();
        self.server = start_server(self.folder.path(), &self.port, self.certificate.as_ref());
        self.wait_ready();
    }

    /// Restarts it so that it takes connections with TLS only. Returns the authority that clients are to trust.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn require_tls(&mut self) -> PathBuf {
        let authority = self.certificate.insert(Certificate::new(SYSTEM_USER)).authority();
        self.restart();
        authority
    }

    fn client(&self, statements: &str) -> std::process::Output {
        Command::new(CLIENT)
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"])
            .arg(format!("--socket={}", self.folder.path().join("socket").display()))
            .args(["-e", statements])
            .stdin(Stdio::null())
            .output()
            .expect("the client starts")
    }

    fn wait_ready(&mut self) {
        let log = self.folder.path().join("server.log");
        wait_until("MariaDB answers", READY_WITHIN, || {
            self.server.must_run(&log);
            self.client("SELECT 1").status.success()
        });
    }
}

fn start_server(folder: &Path, port: &Port, certificate: Option<&Certificate>) -> Process {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", SYSTEM_USER, "--regid", SYSTEM_USER, "--clear-groups"])
        // Changing the user clears what the runner has set; were the server to do it, it would outlive a killed test.
        .args(["--pdeathsig", "KILL", "--", SERVER]);
    let inside = |name: &str| folder.join(name).display().to_string();
    command
        .arg("--no-defaults")
        .arg(format!("--datadir={}", inside("data")))
        .arg(format!("--tmpdir={}", folder.display()))
        .arg(format!("--socket={}", inside("socket")))
        .arg(format!("--pid-file={}", inside("pid")))
        .arg(format!("--port={}", port.number()))
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=512M"])
        .args(["--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1"]);
    if let Some(certificate) = certificate {
        command
            .arg("--require-secure-transport=ON")
            .arg(format!("--ssl-cert={}", certificate.certificate().display()))
            .arg(format!("--ssl-key={}", certificate.key().display()));
    }
    Process::start(&command, &folder.join("server.log"))
}
