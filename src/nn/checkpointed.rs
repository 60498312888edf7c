//! Gradient checkpointing (arXiv 1604.06174): the activations inside a part of a network
//! are recomputed in the backward pass, which saves memory for a third more time.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    TensorId, Var, backend::BackendStorage, backprop::GradStore, bail,
};

/// Gradients of weights by their ids.
type Store = HashMap<TensorId, Tensor>;

/// Gradients of the weights of checkpointed parts, kept outside of candle's store, which
/// only accepts those of an operation's arguments. Each thread has its own.
#[derive(Clone, Default)]
pub struct GradientSink {
    weights: Arc<HashSet<TensorId>>,
    stores: Arc<Mutex<HashMap<ThreadId, Store>>>,
}

impl GradientSink {
    /// Creates a sink for the gradients of these weights.
    pub fn of<'a>(weights: impl Iterator<Item = &'a Var>) -> Self {
        Self {
            weights: Arc::new(weights.map(|weight| weight.id()).collect()),
            stores: Arc::default(),
        }
    }

    /// Removes and returns the gradients of this thread's backward passes.
    pub fn take(&self) -> HashMap<TensorId, Tensor> {
        self.stores()
            .remove(&thread::current().id())
            .unwrap_or_default()
    }

    fn add(&self, found: &GradStore) -> Result<()> {
        let mut stores = self.stores();
        let store = stores.entry(thread::current().id()).or_default();
        for &id in self.weights.iter() {
            if let Some(more) = found.get_id(id) {
                let sum = match store.get(&id) {
                    Some(before) => (before + more)?,
                    None => more.clone(),
                };
                store.insert(id, sum);
            }
        }
        Ok(())
    }

    fn stores(&self) -> MutexGuard<'_, HashMap<ThreadId, Store>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GradientSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GradientSink({} weights)", self.weights.len())
    }
}

/// Applies `part` to `inputs`, all of one type on one device, without keeping its
/// activations. The backward pass recomputes them, adds the gradients of the weights in
/// `part` to `sink`, and propagates those of the inputs.
pub fn checkpointed<F>(inputs: &[&Tensor], sink: &GradientSink, part: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    let detached: Vec<_> = inputs.iter().map(|input| input.detach()).collect();
    let value = part(&detached)?.detach();
    let shapes = inputs.iter().map(|input| input.shape().clone()).collect();
    // Makes the backward pass reach this operation even if no input needs a gradient.
    let anchor = Var::zeros(1, inputs[0].dtype(), inputs[0].device())?;
    let flat = inputs.iter().map(|input| input.flatten_all());
    let flat: Result<Vec<_>> = flat.chain([Ok(anchor.as_tensor().clone())]).collect();
    Tensor::cat(&flat?, 0)?.apply_op1(Recomputed {
        value: Mutex::new(Some(value)),
        shapes,
        sink: sink.clone(),
        part,
    })
}

struct Recomputed<F> {
    value: Mutex<Option<Tensor>>,
    shapes: Vec<Shape>,
    sink: GradientSink,
    part: F,
}

impl<F> Recomputed<F> {
    /// Takes the value, which candle requests once, from its device's `storage`.
    fn value<S: BackendStorage>(
        &self,
        storage: impl Fn(&Storage) -> Option<&S>,
    ) -> Result<(S, Shape)> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match value.take() {
            Some(value) if value.layout().start_offset() == 0 => value.contiguous()?,
            Some(value) => value.force_contiguous()?,
            None => bail!("the value of a checkpointed part was requested twice"),
        };
        let (found, layout) = value.storage_and_layout();
        match storage(&found) {
            Some(storage) => Ok((storage.try_clone(layout)?, value.shape().clone())),
            None => bail!("the result of a checkpointed part is on another device"),
        }
    }

    /// The inputs as new variables.
    fn inputs(&self, packed: &Tensor) -> Result<Vec<Var>> {
        let packed = packed.detach();
        let mut start = 0;
        let input = |shape: &Shape| {
            let flat = packed.narrow(0, start, shape.elem_count())?;
            start += shape.elem_count();
            Var::from_tensor(&flat.reshape(shape)?)
        };
        self.shapes.iter().map(input).collect()
    }
}

impl<F> CustomOp1 for Recomputed<F>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync,
{
    fn name(&self) -> &'static str {
        "checkpointed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.value(|storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.value(|storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.value(|storage| match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        })
    }

    fn bwd(&self, packed: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let inputs = self.inputs(packed)?;
        let tensors = inputs.iter().map(|input| input.as_tensor().clone());
        let value = (self.part)(&tensors.collect::<Vec<_>>())?;
        let store = (value * gradient.detach())?.sum_all()?.backward()?;
        self.sink.add(&store)?;
        let of = |input: &Var| match store.get(input) {
            Some(gradient) => gradient.flatten_all(),
            None => input.zeros_like()?.flatten_all(),
        };
        let anchor = Tensor::zeros(1, packed.dtype(), packed.device());
        let flat: Result<Vec<_>> = inputs.iter().map(of).chain([anchor]).collect();
        Ok(Some(Tensor::cat(&flat?, 0)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn var(values: &[f32]) -> Var {
        Var::new(values, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_vec1().unwrap()
    }

    /// x y^2 w, whose gradients are y^2 w, 2 x y w and x y^2.
    fn part(w: &Var) -> impl Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static {
        let w = w.clone();
        move |inputs| (&inputs[0] * inputs[1].sqr()?)? * w.as_tensor()
    }

    #[test]
    fn gradients_equal_those_without_checkpointing() {
        let (x, y, w) = (var(&[1.0, 2.0]), var(&[3.0, -1.0]), var(&[0.5, 4.0]));
        let sink = GradientSink::of([&w].into_iter());
        let once = checkpointed(&[&x, &y], &sink, part(&w)).unwrap();
        assert_eq!(values(&once), [4.5, 8.0]);
        // Twice the same part: its weights' gradients add up.
        let twice = checkpointed(&[&once, &y], &sink, part(&w)).unwrap();
        let store = twice.sum_all().unwrap().backward().unwrap();
        let sink = sink.take();
        // x y^4 w^2
        let gradient = |x: &Var| values(store.get(x).unwrap());
        assert_eq!(gradient(&x), [20.25, 16.0]);
        assert_eq!(gradient(&y), [27.0, -128.0]);
        assert_eq!(values(&sink[&w.id()]), [81.0, 16.0]);
    }

    #[test]
    fn weights_have_gradients_without_tracked_inputs() {
        let (x, w) = (Tensor::new(&[2f32], &Device::Cpu).unwrap(), var(&[3.0]));
        let sink = GradientSink::of([&w].into_iter());
        let y = checkpointed(&[&x, &x], &sink, part(&w)).unwrap();
        y.backward().unwrap();
        assert_eq!(values(&sink.take()[&w.id()]), [8.0]);
        assert!(sink.take().is_empty(), "taken");
    }
}
