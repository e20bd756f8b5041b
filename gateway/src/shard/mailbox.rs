//! The one way from other threads into a shard: a bounded lock-free queue and the shard's waker.
//!
//! Items of one sender keep their order. A full mailbox gives the item back: the sender applies its named rule (`busy`, or stop taking from the
//! bus). Why no wake-up is lost is argued at [`Waker`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;
use tokio::sync::Notify;

use crate::io::Waker;

/// Makes a mailbox for at most `capacity` items, whose shard is woken through `waker`.
pub fn mailbox<T>(capacity: usize, waker: Arc<Waker>) -> (MailboxSender<T>, Mailbox<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity));
    let room = Arc::new(Room::default());
    let sender = MailboxSender {
        queue: Arc::clone(&queue),
        waker: Arc::clone(&waker),
        room: Arc::clone(&room),
    };
    (sender, Mailbox { queue, waker, room })
}

/// Tells a sender that waits, the control thread's consumer, that half of the mailbox is free.
#[derive(Debug, Default)]
struct Room {
    is_wanted: AtomicBool,
    returned: Notify,
}

/// The side of other threads.
#[derive(Debug)]
pub struct MailboxSender<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Arc<Waker>,
    room: Arc<Room>,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            waker: Arc::clone(&self.waker),
            room: Arc::clone(&self.room),
        }
    }
}

impl<T> MailboxSender<T> {
    /// Puts an item and wakes the shard if it sleeps.
    ///
    /// # Errors
    /// Gives the item back when the mailbox is full.
    pub fn send(&self, item: T) -> Result<(), T> {
        self.queue.push(item)?;
        self.waker.wake();
        Ok(())
    }

    /// Puts an item, waiting for room if need be. For one waiting sender of each mailbox.
    pub async fn send_when_room(&self, mut item: T) {
        loop {
            self.room.is_wanted.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            match self.send(item) {
                Ok(()) => return,
                Err(back) => item = back,
            }
            self.room.returned.notified().await;
        }
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no item is waiting.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Items it can hold.
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }
}

/// The shard's side.
#[derive(Debug)]
pub struct Mailbox<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Arc<Waker>,
    room: Arc<Room>,
}

impl<T> Mailbox<T> {
    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.queue.pop()?;
        fence(Ordering::SeqCst);
        if self.room.is_wanted.load(Ordering::Relaxed)
            && self.queue.len() <= self.queue.capacity() / 2
            && self.room.is_wanted.swap(false, Ordering::AcqRel)
        {
            self.room.returned.notify_one();
        }
        Some(item)
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no item is waiting.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Announces that the shard is about to wait in the kernel and says whether it may: false when an item is
    /// waiting. Call [`awake`](Mailbox::awake) after the wait in either case.
    #[must_use]
    pub fn prepare_sleep(&mut self) -> bool {
        self.waker.prepare_sleep();
        self.queue.is_empty()
    }

    /// The shard runs again: senders need not wake it.
    pub fn awake(&mut self) {
        self.waker.awake();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_full_mailbox_gives_the_item_back() {
        let (sender, mut mailbox) = mailbox(2, Arc::new(Waker::new().unwrap()));
        assert_eq!((sender.send(1), sender.send(2), sender.send(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!((mailbox.pop(), mailbox.pop(), mailbox.pop()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_waiting_sender_never_misses_room() {
        const ITEMS: u64 = 100_000;
        let (sender, mut mailbox) = mailbox(4, Arc::new(Waker::new().unwrap()));
        let producer = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                for item in 0..ITEMS {
                    sender.send_when_room(item).await;
                }
            });
        });
        for expected in 0..ITEMS {
            let item = loop {
                match mailbox.pop() {
                    Some(item) => break item,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(item, expected);
        }
        producer.join().unwrap();
    }

    /// The shard sleeps in `poll` on the eventfd without a time limit whenever it may: a lost wake-up would
    /// hang the test.
    #[test]
    fn no_wake_up_is_lost() {
        const ITEMS: u64 = 200_000;
        let waker = Arc::new(Waker::new().unwrap());
        let (sender, mut mailbox) = mailbox(64, Arc::clone(&waker));
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for item in 1..=ITEMS {
                        while sender.send(item).is_err() {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut sum = 0;
        let mut count = 0;
        while count < 2 * ITEMS {
            if mailbox.prepare_sleep() {
                waker.wait_for_test();
            }
            mailbox.awake();
            while let Some(item) = mailbox.pop() {
                sum += item;
                count += 1;
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
        assert_eq!(sum, ITEMS * (ITEMS + 1));
    }
}
