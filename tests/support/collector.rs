//! A small OpenTelemetry collector: takes OTLP over HTTP, and decodes what arrives with OpenTelemetry's own types.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses its own share")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::wait_for;

/// A span and the process that sent it.
#[derive(Debug, Clone)]
pub struct Exported {
    /// `service.name` and `service.instance.id`.
    pub process: String,
    pub span: Span,
}

impl Exported {
    /// The text of an attribute; numbers and truths as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let AnyValue { value } = found.value.as_ref()?;
    let value = value.as_ref()?;
    Some(if let Value::StringValue(text) = value {
        text.clone()
    } else if let Value::IntValue(number) = value {
        number.to_string()
    } else if let Value::BoolValue(truth) = value {
        truth.to_string()
    } else {
        format!("{value:?}")
    })
}

/// Listens until the test ends.
pub struct Collector {
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Exported>>>,
}

impl Collector {
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("an address"));
        let spans = Arc::<Mutex<Vec<Exported>>>::default();
        let taken = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || serve(&stream, &taken));
            }
        });
        Self { endpoint, spans }
    }

    /// All spans of a trace, once `is_complete` says so.
    pub fn wait(
        &self,
        client_msg_id: &str,
        is_complete: impl Fn(&[Exported]) -> bool,
    ) -> Vec<Exported> {
        let id = u128::from_str_radix(client_msg_id, 16).expect("hexadecimal").to_be_bytes();
        let of_trace = || {
            let spans = self.spans.lock().expect("no panic before");
            spans.iter().filter(|e| e.span.trace_id == id).cloned().collect::<Vec<_>>()
        };
        wait_for("the spans of a message", || Some(of_trace()).filter(|spans| is_complete(spans)))
    }
}

/// Requests of one connection, until it ends.
fn serve(stream: &TcpStream, taken: &Mutex<Vec<Exported>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
            head.push(std::mem::take(&mut line).to_lowercase());
        }
        let Some(request) = head.first() else { return };
        assert!(request.starts_with("post /v1/traces http/1.1"), "{head:?}");
        let content = head.iter().find(|line| line.starts_with("content-type:")).expect("a type");
        assert!(content.contains("application/x-protobuf"), "{content}");
        let length = head.iter().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.expect("a length").trim().parse().expect("a number")];
        reader.read_exact(&mut body).expect("the whole body");
        let request = ExportTraceServiceRequest::decode(&*body).expect("a request of OTLP");
        keep(request, taken);
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        let mut writer = stream;
        writer.write_all(answer.as_bytes()).expect("the client reads");
    }
}

fn keep(request: ExportTraceServiceRequest, taken: &Mutex<Vec<Exported>>) {
    for of_process in request.resource_spans {
        let resource = of_process.resource.unwrap_or_default().attributes;
        let name = |key| attribute(&resource, key).unwrap_or_default();
        let process = format!("{} {}", name("service.name"), name("service.instance.id"));
        let spans = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let spans = spans.map(|span| Exported { process: process.clone(), span });
        taken.lock().expect("no panic before").extend(spans);
    }
}
