//! The queue between those who log and the thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written; at 300 bytes a line some 2.5 MB.
const LINES_MAX: usize = 8_192;

#[derive(Debug)]
enum Job {
    Line(Vec<u8>),
    /// Everything before is to be written; then the sender is dropped.
    Flush(SyncSender<()>),
}

/// Where formatted lines go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    jobs: SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

/// One line while it is formatted; sent when dropped.
pub(super) struct Line {
    bytes: Vec<u8>,
    sink: Sink,
}

impl Sink {
    pub(super) fn start(output: Box<dyn Write + Send>) -> io::Result<Self> {
        let (jobs, received) = sync_channel(LINES_MAX);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&received, &mut io::BufWriter::new(output)))?;
        Ok(Self { jobs, dropped: Arc::default() })
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        if self.jobs.try_send(Job::Flush(done)).is_err() {
            // The queue is full: whoever reads the output is stuck. Give it the time, then go.
            thread::sleep(patience);
            return;
        }
        match written.recv_timeout(patience) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { bytes: Vec::with_capacity(256), sink: self.clone() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() && self.sink.jobs.try_send(Job::Line(bytes)).is_err() {
            self.sink.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes until the last sender is gone. A failing output loses lines, never the process.
fn write_all(jobs: &Receiver<Job>, output: &mut impl Write) {
    while let Ok(job) = jobs.recv() {
        write(job, output);
        while let Ok(job) = jobs.try_recv() {
            write(job, output);
        }
        let _ = output.flush();
    }
}

fn write(job: Job, output: &mut impl Write) {
    match job {
        Job::Line(bytes) => {
            let _ = output.write_all(&bytes);
        }
        Job::Flush(done) => {
            let _ = output.flush();
            drop(done);
        }
    }
}
