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
    match storage {
        Storage::Cpu(storage) => values(storage, layout),
        _ => bail!("a kernel requires values on a CPU"),
    }
}

/// The values of a storage, if contiguous.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a kernel requires contiguous values"),
    }
}

pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// The gradient of an argument, if it is tracked.
pub(super) fn if_tracked(
    argument: &Tensor,
    gradient: impl FnOnce() -> Result<Tensor>,
) -> Result<Option<Tensor>> {
    argument.track_op().then(gradient).transpose()
}

/// Returns an error if an argument of an operation without gradients is tracked.
pub(super) fn untracked(name: &str, arguments: &[&Tensor]) -> Result<()> {
    if arguments.iter().any(|argument| argument.track_op()) {
        bail!("{name} is not differentiable: detach its arguments");
    }
    Ok(())
}

/// A backward pass: the gradients of N arguments from that of the result, all contiguous.
pub(super) trait Backward<const N: usize>:
    Fn([&Tensor; N], &Tensor) -> Result<Gradients<N>> + Send + Sync + 'static
{
}

impl<F, const N: usize> Backward<N> for F where
    F: Fn([&Tensor; N], &Tensor) -> Result<Gradients<N>> + Send + Sync + 'static
{
}

/// A tensor of values that were computed from `arguments`.
pub(super) fn tracked<B: Backward<N>, const N: usize>(
    name: &'static str,
    arguments: [&Tensor; N],
    values: Vec<f32>,
    shape: impl Into<Shape>,
    backward: B,
) -> Result<Tensor>
where
    Node<B, N>: Apply<N>,
{
    let shape = shape.into();
    if !arguments.iter().any(|argument| argument.track_op()) {
        return tensor(values, shape);
    }
    let value = Mutex::new(Some((CpuStorage::F32(values), shape)));
    let node = Node {
        name,
        value,
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

/// Implements candle's trait for operations of as many arguments.
macro_rules! custom_op {
    ($op:ident, $apply:ident, $count:literal, $($x:ident: $tensor:ty),+) => {
        impl<B: Backward<$count>> Apply<$count> for Node<B, $count> {
            fn apply(self, [$($x),+]: [&Tensor; $count]) -> Result<Tensor> {
                Tensor::$apply($($x,)+ self)
            }
        }

        #[allow(unused_variables, reason = "the value is already computed")]
        #[allow(unused_parens, reason = "around a single gradient")]
        impl<B: Backward<$count>> $op for Node<B, $count> {
            fn name(&self) -> &'static str {
                self.name
            }

            fn cpu_fwd(&self, $($x: &CpuStorage, _: &Layout),+) -> Result<(CpuStorage, Shape)> {
                self.value()
            }

            fn bwd(
                &self,
                $($x: &$tensor,)+
                _: &Tensor,
                gradient: &Tensor,
            ) -> Result<($(Option<$tensor>),+)> {
                let [$($x),+] = (self.backward)([$($x),+], &gradient.contiguous()?)?;
                Ok(($($x),+))
            }
        }
    };
}

custom_op!(CustomOp1, apply_op1, 1, x: Tensor);
custom_op!(CustomOp2, apply_op2, 2, x: Tensor, y: Tensor);
custom_op!(CustomOp3, apply_op3, 3, x: Tensor, y: Tensor, z: Tensor);
