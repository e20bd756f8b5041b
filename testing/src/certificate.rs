//! A certificate for a service on this host, and the authority that signed it.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::host::{need_package, own, scratch_folder};

const OPENSSL: &str = "/usr/bin/openssl";

/// Of localhost and 127.0.0.1, for two days.
#[derive(Debug)]
pub struct Certificate {
    folder: TempDir,
}

impl Certificate {
    /// A new one, signed by an authority of its own; `user` of the system may read it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(user: &str) -> Self {
        need_package(OPENSSL, "openssl");
        let folder = scratch_folder("certificate");
        let make = |arguments: &[&str]| {
            let done = Command::new(OPENSSL)
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-nodes", "-days", "2"])
                .args(arguments)
                .current_dir(folder.path())
                .output()
                .expect("openssl starts");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        make(&["-subj", "/CN=Roost tests", "-keyout", "ca.key", "-out", "ca.pem"]);
        make(&[
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-keyout",
            "key.pem",
            "-out",
            "certificate.pem",
        ]);
        own(folder.path(), user);
        Self { folder }
    }

    /// Whom clients trust.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What the service shows.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// Its private key.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
