//! Conversion between candle's tensors and the slices of kernels.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor,
    bail,
};

/// Gradients of the N arguments of a kernel, if needed.
pub(super) type Gradients<const N: usize> = [Option<Tensor>; N];

/// Calls `work` with the values of tensors that are f32, contiguous and on a CPU.
pub(super) fn with<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> Result<R>,
) -> Result<R> {
    let held = tensors.map(Tensor::storage_and_layout);
    let mut values = [&[][..]; N];
    for (slot, (storage, layout)) in values.iter_mut().zip(&held) {
        *slot = slice(storage, layout)?;
    }
    work(values)
}

fn slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(&storage.as_slice::<f32>()?[start..end]),
        _ => bail!("a kernel requires contiguous f32 values on a CPU"),
    }
}

pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// A tensor of values that were computed from `arguments`. `backward` computes their
/// gradients from that of the values, all contiguous.
pub(super) fn tracked<const N: usize, B>(
    name: &'static str,
    arguments: [&Tensor; N],
    values: Vec<f32>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    B: Fn([&Tensor; N], &Tensor) -> Result<Gradients<N>> + Send + Sync + 'static,
    Node<B, N>: Apply<N>,
{
    let shape = shape.into();
    if !arguments.iter().any(|argument| argument.track_op()) {
        return tensor(values, shape);
    }
    let node = Node {
        name,
        value: Mutex::new(Some((CpuStorage::F32(values), shape))),
        backward,
    };
    node.apply(arguments)
}

/// A computed value and its backward pass.
pub(super) struct Node<B, const N: usize> {
    name: &'static str,
    value: Mutex<Option<(CpuStorage, Shape)>>,
    backward: B,
}

impl<B, const N: usize> Node<B, N> {
    /// Takes the value, which candle requests once.
    fn value(&self) -> Result<(CpuStorage, Shape)> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        match value.take() {
            Some(value) => Ok(value),
            None => bail!("the value of {} was requested twice", self.name),
        }
    }
}

/// Candle's custom operation of N arguments.
pub(super) trait Apply<const N: usize> {
    fn apply(self, arguments: [&Tensor; N]) -> Result<Tensor>;
}

impl<B> Apply<1> for Node<B, 1>
where
    B: Fn([&Tensor; 1], &Tensor) -> Result<Gradients<1>> + Send + Sync + 'static,
{
    fn apply(self, [x]: [&Tensor; 1]) -> Result<Tensor> {
        x.apply_op1(self)
    }
}

impl<B> Apply<2> for Node<B, 2>
where
    B: Fn([&Tensor; 2], &Tensor) -> Result<Gradients<2>> + Send + Sync + 'static,
{
    fn apply(self, [x, y]: [&Tensor; 2]) -> Result<Tensor> {
        x.apply_op2(y, self)
    }
}

impl<B> Apply<3> for Node<B, 3>
where
    B: Fn([&Tensor; 3], &Tensor) -> Result<Gradients<3>> + Send + Sync + 'static,
{
    fn apply(self, [x, y, z]: [&Tensor; 3]) -> Result<Tensor> {
        x.apply_op3(y, z, self)
    }
}

impl<B> CustomOp1 for Node<B, 1>
where
    B: Fn([&Tensor; 1], &Tensor) -> Result<Gradients<1>> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.value()
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [x] = (self.backward)([x], &gradient.contiguous()?)?;
        Ok(x)
    }
}

impl<B> CustomOp2 for Node<B, 2>
where
    B: Fn([&Tensor; 2], &Tensor) -> Result<Gradients<2>> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradients = (self.backward)([x, y], &gradient.contiguous()?)?;
        Ok(gradients.into())
    }
}

impl<B> CustomOp3 for Node<B, 3>
where
    B: Fn([&Tensor; 3], &Tensor) -> Result<Gradients<3>> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.value()
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        z: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = (self.backward)([x, y, z], &gradient.contiguous()?)?;
        Ok(gradients.into())
    }
}
