//! The CLIP score (arXiv 2104.08718): how well a picture shows what a text says.

use candle_core::{Device, Tensor};
use candle_nn::Module;
use candle_transformers::models::clip::{
    text_model::Activation,
    vision_model::{ClipVisionConfig, ClipVisionTransformer},
};

use super::{
    Network, NetworkFiles, candle_weights, dinov2::cosine, view, vision_transformer::HEAD,
};
use crate::{
    error::Result,
    model::clip::{Clip, ClipConfig},
    nn::{Linear, Placement, Weights},
    picture::Picture,
    prompt::Tokenizer,
};

/// CLIP with both towers and their projections.
pub struct ClipScore {
    vision: ClipVisionTransformer,
    projection: Linear,
    text: Clip,
    tokenizer: Tokenizer,
    /// Tokens of a prompt.
    context: usize,
    /// Side of the middle square of a picture, to which its shorter side is resized.
    side: usize,
    device: Device,
}

impl ClipScore {
    /// Loads CLIP in the names of transformers, with its tokenizer.
    pub fn open(files: &NetworkFiles, placement: &Placement) -> Result<Self> {
        let placement = placement.in_f32();
        let checkpoint = files.checkpoint(Network::Clip)?;
        let weights = Weights::new(&checkpoint, &placement);
        let (text, vision) = (text_config(&weights)?, vision_config(&weights)?);
        let projection = weights.at("visual_projection");
        let vars = candle_weights::builder(files.checkpoint(Network::Clip)?, &placement.device);
        Ok(Self {
            projection: projection.linear(vision.embed_dim, vision.projection_dim)?,
            side: vision.image_size,
            vision: ClipVisionTransformer::new(vars.pp("vision_model"), &vision)?,
            context: text.max_position_embeddings,
            text: Clip::new(&weights, text)?,
            tokenizer: files.tokenizer()?,
            device: placement.device.clone(),
        })
    }

    /// 100 times the cosine of the embeddings of a picture and of a text, of which as many
    /// tokens count as fit; at least 0.
    pub fn score(&self, picture: &Picture, text: &str) -> Result<f64> {
        let cosine = cosine(&self.embed_picture(picture)?, &self.embed_text(text)?)?;
        Ok((100.0 * cosine).max(0.0))
    }

    fn embed_picture(&self, picture: &Picture) -> Result<Tensor> {
        let sides = [self.side; 2];
        let pixels = view::middle_square(picture, sides, &view::CLIP, &self.device)?;
        let pooled = self.vision.forward(&pixels)?; // (1, c)
        Ok(self.projection.forward(&pooled)?)
    }

    fn embed_text(&self, text: &str) -> Result<Tensor> {
        let prompt = self.tokenizer.encode(text, self.context)?;
        let states = self.text.forward(&[prompt.ids()], &[prompt.end() as u32])?;
        Ok(states.pooled.expect("a projection was read"))
    }
}

/// The sizes of the text tower, as its tensors have them.
fn text_config(w: &Weights) -> Result<ClipConfig> {
    let text = w.at("text_model");
    let tokens = text.at("embeddings.token_embedding").sides("weight", 2)?;
    let positions = text
        .at("embeddings.position_embedding")
        .sides("weight", 2)?;
    let layers = text.at("encoder.layers");
    if !tokens[1].is_multiple_of(HEAD) {
        let reason = format!("width {} is not that of a CLIP", tokens[1]);
        return Err(text.at("embeddings").fault(&reason));
    }
    Ok(ClipConfig {
        vocab_size: tokens[0],
        max_position_embeddings: positions[0],
        hidden_size: tokens[1],
        intermediate_size: layers.at("0.mlp.fc1").sides("weight", 2)?[0],
        num_hidden_layers: count(&layers),
        num_attention_heads: tokens[1] / HEAD,
        projection_dim: Some(w.at("text_projection").sides("weight", 2)?[0]),
        ..ClipConfig::vit_l()
    })
}

/// The sizes of the vision tower, as its tensors have them.
fn vision_config(w: &Weights) -> Result<ClipVisionConfig> {
    let vision = w.at("vision_model");
    let embeddings = vision.at("embeddings");
    let patches = embeddings.at("patch_embedding").sides("weight", 4)?;
    let positions = embeddings.at("position_embedding").sides("weight", 2)?;
    let layers = vision.at("encoder.layers");
    let side = positions[0].saturating_sub(1).isqrt();
    if side * side + 1 != positions[0] || !patches[0].is_multiple_of(HEAD) {
        let (rows, width) = (positions[0], patches[0]);
        let reason = format!("{rows} positions and width {width} are not those of a CLIP");
        return Err(embeddings.fault(&reason));
    }
    Ok(ClipVisionConfig {
        embed_dim: patches[0],
        activation: Activation::QuickGelu,
        intermediate_size: layers.at("0.mlp.fc1").sides("weight", 2)?[0],
        num_hidden_layers: count(&layers),
        num_attention_heads: patches[0] / HEAD,
        projection_dim: w.at("visual_projection").sides("weight", 2)?[0],
        num_channels: 3,
        image_size: side * patches[2],
        patch_size: patches[2],
    })
}

fn count(layers: &Weights) -> usize {
    (0..).take_while(|i| layers.at(i).exists()).count()
}
