//! Parts of a network whose inner results are forgotten and computed again on
//! the way back (arXiv 1604.06174): training fits a smaller memory for a third
//! more time.

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

/// Gradients that recomputed parts leave beside candle's own store, which can
/// only take those of an operation's arguments. Each thread has its own.
#[derive(Clone, Default)]
pub struct Aside {
    weights: Arc<HashSet<TensorId>>,
    stores: Arc<Mutex<HashMap<ThreadId, Store>>>,
}

impl Aside {
    /// A place for the gradients of these weights.
    pub fn of<'a>(weights: impl Iterator<Item = &'a Var>) -> Self {
        Self {
            weights: Arc::new(weights.map(|weight| weight.id()).collect()),
            stores: Arc::default(),
        }
    }

    /// What this thread's ways back have left since they were last asked.
    pub fn take(&self) -> HashMap<TensorId, Tensor> {
        self.stores()
            .remove(&thread::current().id())
            .unwrap_or_default()
    }

    fn add(&self, found: &GradStore) -> Result<()> {
        let mut stores = self.stores();
        let store = stores.entry(thread::current().id()).or_default();
        for &id in self.weights.iter() {
            let Some(more) = found.get_id(id) else {
                continue;
            };
            let sum = match store.get(&id) {
                Some(before) => (before + more)?,
                None => more.clone(),
            };
            store.insert(id, sum);
        }
        Ok(())
    }

    fn stores(&self) -> MutexGuard<'_, HashMap<ThreadId, Store>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aside({} weights)", self.weights.len())
    }
}

/// What `part` makes of `inputs`, all of one type on one device. Nothing that
/// it computes on the way is kept: the way back computes it again, leaves the
/// gradients of the weights that `part` reads in `aside`, and hands on those of
/// the inputs.
pub fn recomputed<F>(inputs: &[&Tensor], aside: &Aside, part: F) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + Send + Sync + 'static,
{
    let detached: Vec<_> = inputs.iter().map(|input| input.detach()).collect();
    let value = part(&detached)?.detach();
    let shapes = inputs.iter().map(|input| input.shape().clone()).collect();
    // The way back comes by here even where no input asks for a gradient.
    let anchor = Var::zeros(1, inputs[0].dtype(), inputs[0].device())?;
    let flat = inputs.iter().map(|input| input.flatten_all());
    let flat: Vec<_> = flat
        .chain([Ok(anchor.as_tensor().clone())])
        .collect::<Result<_>>()?;
    Tensor::cat(&flat, 0)?.apply_op1(Recomputed {
        value: Mutex::new(Some(value)),
        shapes,
        aside: aside.clone(),
        part,
    })
}

struct Recomputed<F> {
    value: Mutex<Option<Tensor>>,
    shapes: Vec<Shape>,
    aside: Aside,
    part: F,
}

impl<F> Recomputed<F> {
    /// The value; candle asks for it once.
    fn value(&self) -> Result<Tensor> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        match value.take() {
            Some(value) if value.layout().start_offset() == 0 => value.contiguous(),
            Some(value) => value.force_contiguous(),
            None => bail!("a recomputed part was asked twice for its value"),
        }
    }

    /// The inputs as variables of their own.
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
        "recomputed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let value = self.value()?;
        match &*value.storage_and_layout().0 {
            Storage::Cpu(storage) => Ok((storage.clone(), value.shape().clone())),
            _ => bail!("a recomputed part left the CPU"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let value = self.value()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, value.shape().clone())),
            _ => bail!("a recomputed part left the GPU"),
        }
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        let value = self.value()?;
        let (storage, layout) = value.storage_and_layout();
        match &*storage {
            Storage::Metal(storage) => Ok((storage.try_clone(layout)?, value.shape().clone())),
            _ => bail!("a recomputed part left the GPU"),
        }
    }

    fn bwd(&self, packed: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let inputs = self.inputs(packed)?;
        let tensors: Vec<_> = inputs
            .iter()
            .map(|input| input.as_tensor().clone())
            .collect();
        let again = (self.part)(&tensors)?;
        let store = (again * gradient.detach())?.sum_all()?.backward()?;
        self.aside.add(&store)?;
        let of = |input: &Var| match store.get(input) {
            Some(gradient) => gradient.flatten_all(),
            None => input.zeros_like()?.flatten_all(),
        };
        let anchor = Tensor::zeros(1, packed.dtype(), packed.device());
        let flat: Vec<_> = inputs
            .iter()
            .map(of)
            .chain([anchor])
            .collect::<Result<_>>()?;
        Ok(Some(Tensor::cat(&flat, 0)?))
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
    fn gradients_are_those_of_the_part_itself() {
        let (x, y, w) = (var(&[1.0, 2.0]), var(&[3.0, -1.0]), var(&[0.5, 4.0]));
        let aside = Aside::of([&w].into_iter());
        let once = recomputed(&[&x, &y], &aside, part(&w)).unwrap();
        assert_eq!(values(&once), [4.5, 8.0]);
        // Twice the same part: its weights' gradients add up.
        let twice = recomputed(&[&once, &y], &aside, part(&w)).unwrap();
        let store = twice.sum_all().unwrap().backward().unwrap();
        let aside = aside.take();
        // x y^4 w^2
        let gradient = |x: &Var| values(store.get(x).unwrap());
        assert_eq!(gradient(&x), [20.25, 16.0]);
        assert_eq!(gradient(&y), [27.0, -128.0]);
        assert_eq!(values(&aside[&w.id()]), [81.0, 16.0]);
    }

    #[test]
    fn weights_learn_even_where_no_input_does() {
        let (x, w) = (Tensor::new(&[2f32], &Device::Cpu).unwrap(), var(&[3.0]));
        let aside = Aside::of([&w].into_iter());
        let y = recomputed(&[&x, &x], &aside, part(&w)).unwrap();
        y.backward().unwrap();
        assert_eq!(values(&aside.take()[&w.id()]), [8.0]);
        assert!(aside.take().is_empty(), "taken");
    }
}
