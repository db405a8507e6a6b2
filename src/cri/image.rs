//! ImageService.

use super::{chunk::chunks, code, parse, render, rpcs, wire};
use crate::image::Images;
use tonic::{Status, codegen::BoxStream};

/// Images, as the kubelet asks for them.
#[derive(Clone, Debug)]
pub(crate) struct ImageService {
    images: Images,
}

rpcs! {
    wire::image_service_server::ImageService, ImageService:
    "ListImages" list_images(ListImagesRequest) -> ListImagesResponse;
    "ImageStatus" image_status(ImageStatusRequest) -> ImageStatusResponse;
    "PullImage" pull_image(PullImageRequest) -> PullImageResponse;
    "RemoveImage" remove_image(RemoveImageRequest) -> RemoveImageResponse;
    "ImageFsInfo" image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    stream "StreamImages" stream_images(StreamImagesRequest) -> StreamImagesResponse;
}

impl ImageService {
    pub(crate) fn new(images: Images) -> Self {
        Self { images }
    }

    async fn list_images(
        &self,
        request: wire::ListImagesRequest,
    ) -> Result<wire::ListImagesResponse, Status> {
        Ok(wire::ListImagesResponse { images: self.listed_images(request.filter)?.collect() })
    }

    async fn stream_images(
        &self,
        request: wire::StreamImagesRequest,
    ) -> Result<BoxStream<wire::StreamImagesResponse>, Status> {
        let images = self.listed_images(request.filter)?;
        Ok(chunks(images, |images| wire::StreamImagesResponse { images }))
    }

    /// Of one snapshot, rendered one after the other.
    fn listed_images(
        &self,
        filter: Option<wire::ImageFilter>,
    ) -> Result<impl Iterator<Item = wire::Image> + Send + use<>, Status> {
        let wanted = filter.and_then(|filter| filter.image).filter(|image| !image.image.is_empty());
        let images = match wanted {
            Some(image) => {
                let reference = parse::reference(Some(image)).map_err(code::of)?;
                self.images.find(&reference).map_err(code::of)?.into_iter().collect()
            }
            None => self.images.list().map_err(code::of)?.to_vec(),
        };
        Ok(images.into_iter().map(|image| render::image(&image)))
    }

    /// An unknown image is an answer without one, not an error.
    async fn image_status(
        &self,
        request: wire::ImageStatusRequest,
    ) -> Result<wire::ImageStatusResponse, Status> {
        let reference = parse::reference(request.image).map_err(code::of)?;
        let Some(image) = self.images.find(&reference).map_err(code::of)? else {
            return Ok(wire::ImageStatusResponse::default());
        };
        let info = if request.verbose { render::image_info(&image) } else { Default::default() };
        Ok(wire::ImageStatusResponse { image: Some(render::image(&image)), info })
    }

    async fn pull_image(&self, request: wire::PullImageRequest) -> Result<wire::PullImageResponse, Status> {
        let reference = parse::reference(request.image).map_err(code::of)?;
        let credentials = parse::credentials(request.auth).map_err(code::of)?;
        let pulled = self.images.pull(&reference, credentials).await;
        let image = pulled.map_err(|error| code::of_pull(&reference, error))?;
        Ok(wire::PullImageResponse { image_ref: image.id.to_string() })
    }

    async fn remove_image(
        &self,
        request: wire::RemoveImageRequest,
    ) -> Result<wire::RemoveImageResponse, Status> {
        let reference = parse::reference(request.image).map_err(code::of)?;
        self.images.remove(&reference).await.map_err(code::of)?;
        Ok(wire::RemoveImageResponse {})
    }

    async fn image_fs_info(
        &self,
        _request: wire::ImageFsInfoRequest,
    ) -> Result<wire::ImageFsInfoResponse, Status> {
        let (images, writable) = self.images.usage().map_err(code::of)?;
        Ok(wire::ImageFsInfoResponse {
            image_filesystems: vec![render::fs_usage(&images)],
            container_filesystems: vec![render::fs_usage(&writable)],
        })
    }
}
