//! An HTTP server that can close its port and come back on it, and cut any of its connections at any time.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A server that runs until it is closed or dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    closing: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens at `address` and answers with `router`, whose handlers may ask for a [`Line`].
    pub(super) async fn listen(address: SocketAddr, router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let closing = CancellationToken::new();
        let gate = Gate { listener, closing: closing.clone() };
        let accepting = tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Line>();
            // Serving ends only when this task is aborted.
            let _ = axum::serve(gate, service).await;
        });
        Ok(Server { address, closing, accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts all connections and closes the port. When this returns, connecting is refused.
    pub(super) async fn close(mut self) {
        self.closing.cancel();
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.cancel();
        self.accepting.abort();
    }
}

/// The connection a request came in on, as its handler sees it.
#[derive(Clone, Debug)]
pub(super) struct Line(CancellationToken);

impl Line {
    /// Closes the connection, whatever was still to be read or written.
    pub(super) fn cut(&self) {
        self.0.cancel();
    }

    /// Waits until the connection is cut.
    pub(super) async fn is_cut(&self) {
        self.0.cancelled().await;
    }
}

impl Connected<IncomingStream<'_, Gate>> for Line {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Line(stream.io().cut.clone())
    }
}

struct Gate {
    listener: TcpListener,
    closing: CancellationToken,
}

impl Listener for Gate {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Wire::new(stream, self.closing.child_token()), peer),
                // A client that went away while it was being let in; the next one is not its fault.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails as soon as it is cut.
struct Wire {
    stream: TcpStream,
    cut: CancellationToken,
    cutting: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn new(stream: TcpStream, cut: CancellationToken) -> Self {
        // Answers are small; without this each waits for the client's acknowledgement of the last.
        let _ = stream.set_nodelay(true);
        Wire { stream, cutting: Box::pin(cut.clone().cancelled_owned()), cut }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.is_cancelled() || self.cutting.as_mut().poll(context).is_ready() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
