//! Lists in pieces: the Stream RPCs.
//!
//! The items are those of the unary list, from one snapshot, each of them once. A piece is rendered when the
//! client has taken the one before, and none when the client has gone. No items are no message at all.

use futures_util::{StreamExt as _, stream};
use prost::{Message, length_delimiter_len};
use tonic::codegen::BoxStream;

/// Bytes of one message, unless a single item has more. A tenth of what clients take, and enough that a
/// thousand containers are one message.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Pods or containers whose figures are read, and held, at a time: enough to keep all threads busy that read.
const READ_MAX: usize = 64;

/// The items in messages that `message` makes.
pub(super) fn chunks<T, M>(
    items: impl Iterator<Item = T> + Send + 'static,
    message: fn(Vec<T>) -> M,
) -> BoxStream<M>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let chunks = Chunks { items, left: None };
    stream::iter(chunks.map(message).map(Ok)).boxed()
}

/// As [`chunks`], of what has to be read first: of [`READ_MAX`] views at a time, when the client has taken what
/// was read before.
pub(super) fn read_chunks<V, S, T, M, F>(
    views: Vec<V>,
    read: impl Fn(Vec<V>) -> F + Send + 'static,
    render: fn(&S) -> T,
    message: fn(Vec<T>) -> M,
) -> BoxStream<M>
where
    V: Send + 'static,
    S: Send + 'static,
    T: Message + 'static,
    M: Send + 'static,
    F: Future<Output = Vec<S>> + Send + 'static,
{
    let batches = stream::unfold(views.into_iter(), move |mut rest| {
        let batch: Vec<V> = rest.by_ref().take(READ_MAX).collect();
        let reading = (!batch.is_empty()).then(|| read(batch));
        async move { Some((reading?.await, rest)) }
    });
    let messages = batches.flat_map(move |batch| {
        let items = batch.into_iter().map(move |item| render(&item));
        stream::iter(Chunks { items, left: None }.map(message).map(Ok))
    });
    messages.boxed()
}

struct Chunks<I: Iterator> {
    items: I,
    /// The item that did not fit into the last chunk.
    left: Option<I::Item>,
}

impl<I: Iterator<Item: Message>> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.left.take().or_else(|| self.items.next())?;
        let mut bytes = bytes_of(&first);
        let mut chunk = vec![first];
        for item in self.items.by_ref() {
            bytes += bytes_of(&item);
            if bytes > CHUNK_BYTES_MAX {
                self.left = Some(item);
                break;
            }
            chunk.push(item);
        }
        Some(chunk)
    }
}

/// Bytes that an item adds to its message: a key of one byte (its field has a low number), a length, itself.
fn bytes_of(item: &impl Message) -> usize {
    let length = item.encoded_len();
    1 + length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;
    use crate::cri::wire::{Image, StreamImagesResponse};

    fn image(bytes: usize) -> Image {
        Image { id: "x".repeat(bytes), ..Default::default() }
    }

    fn message(images: Vec<Image>) -> StreamImagesResponse {
        StreamImagesResponse { images }
    }

    async fn sizes(items: Vec<usize>) -> Vec<Vec<usize>> {
        let messages: Vec<_> = chunks(items.into_iter().map(image), message).collect().await;
        let messages = messages.into_iter().map(Result::unwrap).inspect(|message| {
            assert!(message.images.len() == 1 || message.encoded_len() <= CHUNK_BYTES_MAX);
        });
        messages.map(|message| message.images.iter().map(|image| image.id.len()).collect()).collect()
    }

    #[tokio::test]
    async fn each_item_comes_once_and_in_order() {
        let third = CHUNK_BYTES_MAX / 3 - 16;
        assert_eq!(sizes(vec![1, third, third, third, 2]).await, [vec![1, third, third, third, 2]]);
        let half = CHUNK_BYTES_MAX / 2;
        assert_eq!(sizes(vec![half, 7, half, half, 9]).await, [vec![half, 7], vec![half], vec![half, 9]]);
    }

    #[tokio::test]
    async fn no_items_are_no_message_and_one_that_is_too_big_is_one() {
        assert_eq!(sizes(vec![]).await, Vec::<Vec<usize>>::new());
        let big = 3 * CHUNK_BYTES_MAX;
        assert_eq!(sizes(vec![1, big, big, 2]).await, [vec![1], vec![big], vec![big], vec![2]]);
    }

    #[tokio::test]
    async fn the_limit_is_of_the_encoded_message() {
        // The item's own key and length, and its key and length in the message: 1 + 3 + 1 + 3 bytes.
        let most = CHUNK_BYTES_MAX - 8 - 5;
        assert_eq!(sizes(vec![most, 1]).await, [vec![most, 1]]);
        assert_eq!(sizes(vec![most, 2]).await, [vec![most], vec![2]]);
    }

    #[tokio::test]
    async fn what_is_read_comes_once_in_order_and_only_as_far_as_it_is_taken() {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reads);
        let views: Vec<usize> = (1..=3 * READ_MAX).collect();
        let read = move |batch: Vec<usize>| {
            count.fetch_add(1, Relaxed);
            // All of the second batch have gone meanwhile.
            let gone = READ_MAX + 1..=2 * READ_MAX;
            async move { batch.into_iter().filter(|size| !gone.contains(size)).collect::<Vec<_>>() }
        };
        let mut messages = read_chunks(views, read, |size| image(*size), message);
        let first = messages.next().await.unwrap().unwrap();
        assert_eq!(reads.load(Relaxed), 1);
        let second = messages.next().await.unwrap().unwrap();
        assert!(messages.next().await.is_none());
        let received = |message: StreamImagesResponse| -> Vec<usize> {
            message.images.iter().map(|image| image.id.len()).collect()
        };
        assert_eq!(received(first), (1..=READ_MAX).collect::<Vec<_>>());
        assert_eq!(received(second), (2 * READ_MAX + 1..=3 * READ_MAX).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn nothing_is_rendered_before_it_is_asked_for() {
        let rendered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&rendered);
        let items = (0..100).map(move |_| {
            count.fetch_add(1, Relaxed);
            image(CHUNK_BYTES_MAX / 2)
        });
        let mut messages = chunks(items, message);
        assert_eq!(rendered.load(Relaxed), 0);
        messages.next().await.unwrap().unwrap();
        assert_eq!(rendered.load(Relaxed), 2);
    }
}
