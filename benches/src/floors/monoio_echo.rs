//! Question: what does an async runtime on io_uring cost against a ring of one's own, written the
//! way it holds least memory: wait for readability, then take a buffer from a pool?
//!
//! Expected: 80-90 % of the io_uring floor's messages per second, and 600 to 1,000 private bytes
//! per idle connection (task, driver slot, waker).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};

use super::{BUFFER_BYTES, announce};
use crate::sys::listen;

type Pool = Rc<RefCell<Vec<Vec<u8>>>>;

/// Echoes until the process is killed.
pub fn run() -> io::Result<()> {
    let listener = listen()?;
    announce(std::slice::from_ref(&listener))?;
    let mut runtime =
        monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        let pool = Pool::default();
        loop {
            let (stream, _) = listener.accept().await?;
            // A connection that fails is over; there is nobody to tell.
            monoio::spawn(echo(stream, pool.clone()));
        }
    })
}

async fn echo(mut stream: TcpStream, pool: Pool) -> io::Result<()> {
    loop {
        stream.readable(true).await?;
        let pooled = pool.borrow_mut().pop();
        let mut buffer = pooled.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        buffer.resize(BUFFER_BYTES, 0);
        let (result, mut buffer) = stream.read(buffer).await;
        let length = result?;
        if length == 0 {
            return Ok(());
        }
        buffer.truncate(length);
        let (result, buffer) = stream.write_all(buffer).await;
        pool.borrow_mut().push(buffer);
        result?;
    }
}
