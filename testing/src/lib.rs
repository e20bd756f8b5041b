//! Real services for tests: each started on its own free ports and in its own scratch folder, and gone with the value that holds it.
//!
//! * A missing Debian package is installed (as root); the distribution's own instance is never started or touched.
//! * Readiness is a condition with a deadline, never a pause.
//! * A service ends with its value, also when the test panics, and dies with the test's process when that is killed: nothing is
//!   left behind but the scratch folder of a killed process.
//! * [`Process::kill`] is kill -9, [`Process::pause`] is SIGSTOP. A service comes back on the same ports with the same data.
//!
//! A further service is a file that knows its package, its command line and its condition of readiness; everything else is in
//! [`process`] and [`host`].

pub mod certificate;
pub mod etcd;
pub mod host;
pub mod mariadb;
pub mod postgresql;
pub mod process;
pub mod rabbitmq;
pub mod redis;
pub mod zookeeper;

pub use certificate::Certificate;
pub use etcd::Etcd;
pub use mariadb::MariaDb;
pub use postgresql::PostgreSql;
pub use process::Process;
pub use rabbitmq::RabbitMq;
pub use redis::{Redis, RedisCluster, Sentinels};
pub use zookeeper::ZooKeeper;
