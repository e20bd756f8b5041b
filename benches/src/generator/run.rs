//! The generator's loop: submit, wait, reap all, handle, on one ring.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use io_uring::types::Fixed;
use io_uring::{cqueue, opcode, squeue};

use super::connection::{Connection, Sent};
use super::outcome::{Latency, Nanoseconds, Outcome, histogram};
use super::{Load, Pace};
use crate::probe::cpu;
use crate::ring::{BufferRing, Loop, open_ring};
use crate::sys::connect_from;

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32_768;
const BUFFERS: u16 = 8192;
const BUFFER_BYTES: u32 = 512;
const BUFFER_GROUP: u16 = 0;
/// A subject that stalls does not keep the generator from its end.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Set in the `user_data` of a send; receives carry the bare index of their connection.
const SEND: u64 = 1 << 63;

/// Connects, warms up, measures, and reports.
pub fn run(load: &Load) -> Result<Outcome> {
    let streams = connect(load)?;
    let descriptors: Vec<i32> = streams.iter().map(AsRawFd::as_raw_fd).collect();

    let mut buffers = BufferRing::allocate(BUFFERS, BUFFER_BYTES)?;
    let mut ring = open_ring(SUBMISSIONS, COMPLETIONS).context("opening the generator's ring")?;
    ring.submitter().register_files(&descriptors)?;
    buffers.register(&ring, BUFFER_GROUP)?;
    let mut generator = Generator {
        turn: Loop::new(&mut ring)?,
        buffers: &mut buffers,
        connections: streams.iter().map(|_| Connection::new(load.framing.answers())).collect(),
        send_entries: (0..streams.len()).map(|index| send_entry(load, index)).collect(),
        start: Instant::now(),
        counts: Counts::new(),
    };
    for index in 0..streams.len() {
        generator.submit_receive(index)?;
    }
    match load.pace {
        Pace::OneInFlight => generator.closed_loop(load),
        Pace::PerSecond(rate) => generator.open_loop(load, rate),
    }
}

fn connect(load: &Load) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        let target = load.targets[index % load.targets.len()];
        let stream = connect_from(Ipv4Addr::LOCALHOST, target)
            .with_context(|| format!("connection {index} to {target}"))?;
        streams.push(stream);
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        load.framing.login(stream, index).with_context(|| format!("login {index}"))?;
    }
    Ok(streams)
}

/// The message is leaked: it is static memory, as the ring asks of what it sends.
fn send_entry(load: &Load, index: usize) -> squeue::Entry {
    let message: &'static [u8] = load.framing.message(index).leak();
    opcode::Send::new(Fixed(index as u32), message.as_ptr(), message.len() as u32)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(SEND | index as u64)
}

/// What is counted between the end of the warm-up and the end of the run.
struct Counts {
    messages: u64,
    intended_to_received: Nanoseconds,
    sent_to_received: Nanoseconds,
    lag: Nanoseconds,
}

impl Counts {
    fn new() -> Self {
        Self {
            messages: 0,
            intended_to_received: histogram(),
            sent_to_received: histogram(),
            lag: histogram(),
        }
    }

    fn handle_answer(&mut self, sent: Sent, now: u64) {
        self.messages += 1;
        self.intended_to_received.saturating_record(now.saturating_sub(sent.intended).max(1));
        self.sent_to_received.saturating_record(now.saturating_sub(sent.sent).max(1));
    }
}

/// The machine's counters at the start of the counted part.
struct Baseline {
    at: Instant,
    server: f64,
    generator: f64,
    machine: cpu::Machine,
    listen_overflows: u64,
}

impl Baseline {
    fn read(load: &Load) -> Result<Self> {
        let mut cores = cpu::cores_of(std::process::id())?;
        if let Some(server) = load.server_pid {
            cores.extend(cpu::cores_of(server)?);
        }
        Ok(Self {
            at: Instant::now(),
            server: load.server_pid.map_or(Ok(0.0), cpu::process_seconds)?,
            generator: cpu::process_seconds(std::process::id())?,
            machine: cpu::machine(&cores)?,
            listen_overflows: cpu::listen_overflows()?,
        })
    }

    fn outcome(&self, load: &Load, counts: &Counts, unanswered: usize) -> Result<Outcome> {
        let now = Self::read(load)?;
        Ok(Outcome {
            messages: counts.messages,
            unanswered: unanswered as u64,
            seconds: (now.at - self.at).as_secs_f64(),
            server_cpu_seconds: now.server - self.server,
            generator_cpu_seconds: now.generator - self.generator,
            machine_cpu_seconds: now.machine.busy - self.machine.busy,
            stolen_seconds: now.machine.stolen - self.machine.stolen,
            listen_overflows: now.listen_overflows - self.listen_overflows,
            intended_to_received: Latency::from(&counts.intended_to_received),
            sent_to_received: Latency::from(&counts.sent_to_received),
            lag: Latency::from(&counts.lag),
        })
    }
}

struct Generator<'ring> {
    turn: Loop<'ring>,
    buffers: &'ring mut BufferRing,
    connections: Vec<Connection>,
    send_entries: Vec<squeue::Entry>,
    start: Instant,
    counts: Counts,
}

impl Generator<'_> {
    fn closed_loop(&mut self, load: &Load) -> Result<Outcome> {
        let mut reaped = Vec::with_capacity(COMPLETIONS as usize);
        for index in 0..self.connections.len() {
            let now = self.now();
            self.submit_send(index, now, now)?;
        }
        let mut baseline = None;
        loop {
            self.turn.submit_and_wait_at_most(1, WAIT_MAX)?;
            self.turn.reap(&mut reaped);
            let now = self.now();
            let mut answered = Vec::with_capacity(reaped.len());
            for completion in &reaped {
                self.handle(completion, now, &mut answered)?;
            }
            self.buffers.publish();
            for index in answered {
                self.submit_send(index, now, now)?;
            }
            if self.phase_ended(load, &mut baseline)? {
                return self.finish(load, baseline);
            }
        }
    }

    /// Spins: a generator that sleeps until the next message is due adds its own wake-up to it. But
    /// before everything else on the machine it has to sleep, because the kernel stops a process
    /// of that class that never does, for 50 ms of each second.
    fn open_loop(&mut self, load: &Load, rate: u32) -> Result<Outcome> {
        let mut reaped = Vec::with_capacity(COMPLETIONS as usize);
        let mut answered = Vec::with_capacity(COMPLETIONS as usize);
        let interval = 1e9 / f64::from(rate);
        let mut number: u64 = 0;
        let mut baseline = None;
        loop {
            let now = self.now();
            loop {
                let intended = (number as f64 * interval) as u64;
                if intended > now {
                    break;
                }
                let index = number as usize % self.connections.len();
                self.counts.lag.saturating_record((now - intended).max(1));
                self.submit_send(index, intended, now)?;
                number += 1;
            }
            if load.realtime {
                let due = Duration::from_nanos((number as f64 * interval) as u64);
                let left = due.saturating_sub(self.start.elapsed());
                self.turn.submit_and_wait_at_most(1, left)?;
            } else {
                self.turn.poll()?;
            }
            self.turn.reap(&mut reaped);
            if !reaped.is_empty() {
                let now = self.now();
                answered.clear();
                for completion in &reaped {
                    self.handle(completion, now, &mut answered)?;
                }
                self.buffers.publish();
            }
            if self.phase_ended(load, &mut baseline)? {
                return self.finish(load, baseline);
            }
        }
    }

    /// Starts counting after the warm-up; true at the end of the run.
    fn phase_ended(&mut self, load: &Load, baseline: &mut Option<Baseline>) -> Result<bool> {
        let elapsed = self.start.elapsed();
        match baseline {
            None if elapsed >= load.warmup => {
                self.counts = Counts::new();
                *baseline = Some(Baseline::read(load)?);
                Ok(false)
            }
            None => Ok(false),
            Some(_) => Ok(elapsed >= load.warmup + load.duration),
        }
    }

    fn finish(&self, load: &Load, baseline: Option<Baseline>) -> Result<Outcome> {
        let baseline = baseline.context("the run ended before its warm-up")?;
        let unanswered = self.connections.iter().map(Connection::in_flight).sum();
        baseline.outcome(load, &self.counts, unanswered)
    }

    fn handle(
        &mut self,
        completion: &cqueue::Entry,
        now: u64,
        answered: &mut Vec<usize>,
    ) -> Result<()> {
        let index = (completion.user_data() & !SEND) as usize;
        let result = completion.result();
        if completion.user_data() & SEND != 0 {
            bail!("sending on connection {index}: {}", io::Error::from_raw_os_error(-result));
        }
        if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
            let bytes = self.buffers.received(buffer, result.max(0) as usize);
            let counts = &mut self.counts;
            self.connections[index].handle_received(bytes, |sent| {
                counts.handle_answer(sent, now);
                answered.push(index);
            })?;
            self.buffers.give_back(buffer);
        }
        match result {
            0 => bail!("the subject closed connection {index}"),
            _ if cqueue::more(completion.flags()) => Ok(()),
            _ if result > 0 || result == -libc::ENOBUFS => self.submit_receive(index),
            _ => bail!("receiving on {index}: {}", io::Error::from_raw_os_error(-result)),
        }
    }

    fn submit_receive(&mut self, index: usize) -> Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(index as u32), BUFFER_GROUP)
            .build()
            .user_data(index as u64);
        Ok(self.turn.push(&entry)?)
    }

    fn submit_send(&mut self, index: usize, intended: u64, sent: u64) -> Result<()> {
        self.connections[index].handle_sent(Sent { intended, sent });
        Ok(self.turn.push(&self.send_entries[index])?)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// Prints an outcome as one line for the bench.
pub fn print(outcome: &Outcome) -> Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, outcome)?;
    writeln!(output)?;
    Ok(output.flush()?)
}
