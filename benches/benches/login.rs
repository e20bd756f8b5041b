//! Question: what does a login cost a shard: the check of each credential, and the place in the directory?
//!
//! Expected: HS256 about 2 us, a resume token half a microsecond to check and as much to give, EdDSA 50-110 us, which is
//! why reconnect storms ride on resume tokens; registering among 100,000 half a microsecond.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use roost_gateway::session::directory::{Authenticated, Directory};
use roost_gateway::session::keys::VerificationKeys;
use roost_gateway::session::resume_token::{Resume, ResumeKey};
use roost_protocol::envelope::ConnectionAddress;
use roost_protocol::frame::connect::DeviceClass;

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn token(kid: &str, algorithm: Algorithm, key: &EncodingKey) -> String {
    let mut header = Header::new(algorithm);
    header.kid = Some(kid.to_owned());
    let claims = serde_json::json!({
        "app": "demo", "sub": "alice12345", "iat": NOW_S, "exp": NOW_S + 900
    });
    jsonwebtoken::encode(&header, &claims, key).expect("claims are JSON")
}

fn credentials(criterion: &mut Criterion) {
    let signing = SigningKey::from_bytes(&[7; 32]);
    let mut keys = VerificationKeys::new();
    keys.add_hs256("h", Some("demo"), SECRET).expect("long enough");
    keys.add_ed25519("e", None, signing.verifying_key().as_bytes()).expect("a point");
    let der = signing.to_pkcs8_der().expect("a key has a document");
    let hs256 = token("h", Algorithm::HS256, &EncodingKey::from_secret(SECRET));
    let eddsa = token("e", Algorithm::EdDSA, &EncodingKey::from_ed_der(der.as_bytes()));
    let mut group = criterion.benchmark_group("login");
    for (name, token) in [("HS256", &hs256), ("EdDSA", &eddsa)] {
        group.bench_function(format!("check {name}"), |bencher| {
            bencher.iter(|| keys.verify(black_box(token), NOW_S, |claims| Ok(claims.expires_s)));
        });
    }
    let key = ResumeKey::new(SECRET);
    let resume = Resume {
        app: "demo",
        user: "alice12345",
        device: "device-1",
        epoch: 1_800_000_000_000_000,
        session_expires_s: 1_800_000_900,
    };
    let mut resume_token = String::new();
    key.issue(&resume, NOW_S, &mut resume_token);
    group.bench_function("check resume token", |bencher| {
        bencher.iter(|| key.verify(black_box(&resume_token), NOW_S, |resume| Ok(resume.epoch)));
    });
    group.bench_function("give resume token", |bencher| {
        bencher.iter(|| {
            resume_token.clear();
            key.issue(black_box(&resume), NOW_S, &mut resume_token);
        });
    });
    group.finish();
}

/// The same 100,000 devices again and again: each login supersedes the one before.
fn register(criterion: &mut Criterion) {
    const USERS: u32 = 100_000;
    let directory = Directory::new("bench", 0);
    let app = directory.app_index("demo").expect("the first app");
    let logins: Vec<_> = (0..USERS)
        .map(|index| Authenticated {
            app,
            user: format!("user{index}"),
            device: "d1".to_owned(),
            device_class: DeviceClass::Phone,
            last_epoch: 0,
            expires_s: u32::MAX,
        })
        .collect();
    let mut next = (0..USERS).cycle();
    criterion.bench_function("login/register, 100,000 users", |bencher| {
        bencher.iter(|| {
            let index = next.next().unwrap_or(0);
            let address = ConnectionAddress { shard: 0, index, generation: 1 };
            directory.register(&logins[index as usize], address, NOW_S * 1_000_000)
        });
    });
}

criterion_group!(benches, credentials, register);
criterion_main!(benches);
