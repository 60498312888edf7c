//! Linear layers and convolutions: `gemm.cu` and, for few rows, `rows.cu`.

#![expect(unsafe_code, reason = "launches on a GPU")]

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::{
    gpu::{Argument, Gpu, Kernel, Module},
    operand::{aligned, half_suffix, suffix, takes},
    tiles::{self, Division, Size},
};
use crate::kernel::{ConvEpilogue, ConvGeometry, Epilogue};

/// The kernels read 16 bytes at once: sums have a multiple of this number of terms.
const VECTOR: usize = 8;

/// Threads of a block that adds the parts of split sums.
const ADDING: u32 = 256;

/// Outputs of each of these threads, of one row.
const ADDED: usize = 8;

/// Most rows of a linear layer whose weights are read once by a warp for each output.
const FEW_ROWS: usize = 8;

/// Threads of such a block, and its outputs of a row.
const WARPS: (u32, usize) = (256, 8);

/// A linear layer of x (.., inputs) with a weight (outputs, inputs), or `None` where the
/// kernels do not take the tensors. Also in f32 for at most eight rows.
pub fn linear(x: &Tensor, weight: &Tensor, epilogue: Epilogue) -> Result<Option<Tensor>> {
    let Some((shape, size)) = linear_shape(x, weight) else {
        return Ok(None);
    };
    let epilogue = ConvEpilogue {
        bias: epilogue.bias,
        residual: epilogue.residual,
        ..ConvEpilogue::default()
    };
    let few = size.m <= FEW_ROWS;
    let output = Output {
        shape,
        size,
        suffix: match few {
            true => suffix(x.dtype()),
            false => half_suffix(x.dtype()),
        },
    };
    let Some(product) = Product::new(x, weight, epilogue, output)? else {
        return Ok(None);
    };
    let Size { m, n, k } = size;
    let y = match few {
        true => product.by_rows(),
        false => product.computed(Form::Linear, &[m, n, k]),
    };
    y.map(Some)
}

/// The shape of a linear layer's output, and the size of the product.
fn linear_shape(x: &Tensor, weight: &Tensor) -> Option<(Vec<usize>, Size)> {
    let (n, k) = weight.dims2().ok()?;
    let (&inputs, rows) = x.dims().split_last()?;
    let m = rows.iter().product();
    (inputs == k).then(|| ([rows, &[n]].concat(), Size { m, n, k }))
}

/// A linear layer of x (.., inputs) with a weight (2 d, inputs), the first half of whose
/// outputs is multiplied by the exact GELU of the second: (.., d). `None` where the kernels
/// do not take the tensors.
pub fn linear_geglu(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let Some((mut shape, mut size)) = linear_shape(x, weight) else {
        return Ok(None);
    };
    if !size.n.is_multiple_of(2) {
        return Ok(None);
    }
    size.n /= 2;
    shape.pop();
    shape.push(size.n);
    let x = aligned(x)?;
    let Some(target) = Target::of(&x, size, half_suffix(x.dtype()))? else {
        return Ok(None);
    };
    let fits = bias.is_none_or(|bias| bias.dims() == [2 * size.n]);
    if !fits || !takes(x.dtype(), [Some(weight), bias]) {
        return Ok(None);
    }
    target.gated(&shape, [&x, weight], bias).map(Some)
}

/// A convolution of x (b, h, w, inputs) with a weight (outputs, k, k, inputs), or `None`
/// where the kernels do not take the tensors.
pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    geometry: ConvGeometry,
    epilogue: ConvEpilogue,
) -> Result<Option<Tensor>> {
    let ((b, h, w, c), (n, side, _, inputs)) = (x.dims4()?, weight.dims4()?);
    let (height, width) = epilogue.upsample.unwrap_or((h, w));
    let ConvGeometry { stride, before, .. } = geometry;
    if inputs != c || side != geometry.side || ![1, 3].contains(&side) {
        return Ok(None);
    }
    let [oh, ow] = [height, width].map(|length| geometry.output(length));
    let (m, k) = (b * oh * ow, side * side * c);
    let output = Output {
        shape: vec![b, oh, ow, n],
        size: Size { m, n, k },
        suffix: half_suffix(x.dtype()),
    };
    let Some(product) = Product::new(x, weight, epilogue, output)? else {
        return Ok(None);
    };
    let sizes = [b, h, w, c, n, oh, ow, height, width, side, stride, before];
    product.computed(Form::Conv, &sizes).map(Some)
}

/// The two kernels of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Linear,
    Conv,
}

/// The output of a product.
struct Output {
    shape: Vec<usize>,
    size: Size,
    /// The end of the names of the kernels for its type, if there are any.
    suffix: Option<&'static str>,
}

/// A product on a GPU that runs the kernels.
struct Target {
    gpu: Arc<Gpu>,
    dtype: DType,
    suffix: &'static str,
    size: Size,
}

impl Target {
    /// The target of a product of an aligned x, if the kernels whose names end in `suffix` take
    /// x and the size.
    fn of(x: &Tensor, size: Size, suffix: Option<&'static str>) -> Result<Option<Self>> {
        let outputs = size.m.checked_mul(size.n);
        let fits = outputs.is_some_and(|count| i32::try_from(2 * count).is_ok());
        let Some(suffix) = suffix.filter(|_| fits) else {
            return Ok(None);
        };
        if !takes(x.dtype(), [Some(x)]) || !size.k.is_multiple_of(VECTOR) {
            return Ok(None);
        }
        Ok(Gpu::of(x.device())?.map(|gpu| Self {
            gpu,
            dtype: x.dtype(),
            suffix,
            size,
        }))
    }

    /// A gated linear layer.
    fn gated(
        &self,
        shape: &[usize],
        [x, weight]: [&Tensor; 2],
        bias: Option<&Tensor>,
    ) -> Result<Tensor> {
        let Self { gpu, size, .. } = self;
        // A block computes both halves of its outputs.
        let both = Size {
            n: 2 * size.n,
            ..*size
        };
        let tile = tiles::whole(both, gpu.multiprocessors());
        let kernel = Kernel {
            module: Module::Gemm,
            name: format!("linear_geglu_{}_{}", self.suffix, tile.name()),
            threads: tile.threads,
            shared: tile.shared,
        };
        let [across, down] = tile.grid(both);
        gpu.filled(shape, self.dtype, |y| {
            gpu.with([Some(x), Some(weight), bias], |[x, weight, bias]| {
                let [m, n, k] = [size.m, size.n, size.k].map(Argument::int);
                // SAFETY: linear_geglu_T_TILE(x, w, bias, y, m, n, k) with x (m, k), w (2 n, k),
                // bias (2 n) and y (m, n).
                unsafe { gpu.launch(&kernel, [across, down, 1], &[x, weight, bias, y, m, n, k]) }
            })
        })
    }
}

/// A product, and all that is added to its output y (m, n).
struct Product<'a> {
    target: Target,
    shape: Vec<usize>,
    /// (m, k), or a picture whose patches are that.
    x: Tensor,
    /// (n, k).
    weight: &'a Tensor,
    /// (n).
    bias: Option<&'a Tensor>,
    /// (b, n), each row for as many rows of y.
    shift: Option<Tensor>,
    /// (m, n).
    residual: Option<Tensor>,
}

impl<'a> Product<'a> {
    /// Checks that the kernels take all tensors, and their shapes.
    fn new(
        x: &Tensor,
        weight: &'a Tensor,
        epilogue: ConvEpilogue<'a>,
        output: Output,
    ) -> Result<Option<Self>> {
        let x = aligned(x)?;
        let Output {
            shape,
            size,
            suffix,
        } = output;
        let Some(target) = Target::of(&x, size, suffix)? else {
            return Ok(None);
        };
        let bias = epilogue.bias;
        let shift = epilogue.shift.map(aligned).transpose()?;
        let residual = epilogue.residual.map(aligned).transpose()?;
        let others = [Some(weight), bias, shift.as_ref(), residual.as_ref()];
        let fits = bias.is_none_or(|bias| bias.dims() == [size.n])
            && shift
                .as_ref()
                .is_none_or(|shift| shift.dims() == [shape[0], size.n])
            && residual
                .as_ref()
                .is_none_or(|residual| residual.dims() == shape);
        if !fits || !takes(target.dtype, others) {
            return Ok(None);
        }
        Ok(Some(Self {
            target,
            shape,
            x,
            weight,
            bias,
            shift,
            residual,
        }))
    }

    /// The output, by a kernel with these sizes before `splits`.
    fn computed(&self, form: Form, sizes: &[usize]) -> Result<Tensor> {
        let Target { gpu, size, .. } = &self.target;
        let division = tiles::divide(*size, gpu.multiprocessors());
        let sizes = sizes.iter().chain([&division.splits]);
        let sizes: Vec<_> = sizes.map(|&size| Argument::int(size)).collect();
        let launch = |y, partial| self.launch(form, division, [y, partial], &sizes);
        let outputs = division.splits * size.m * size.n;
        gpu.filled(
            self.shape.as_slice(),
            self.target.dtype,
            |y| match division.splits {
                1 => launch(y, Argument::Pointer(0)),
                splits => gpu.with_scratch(outputs, |partial| {
                    launch(y, partial)?;
                    self.add(splits, partial, y)
                }),
            },
        )
    }

    /// A linear layer of few rows.
    fn by_rows(&self) -> Result<Tensor> {
        let Target {
            gpu, size, suffix, ..
        } = &self.target;
        let (threads, columns) = WARPS;
        let kernel = Kernel {
            module: Module::Rows,
            name: format!("linear_rows_{suffix}"),
            threads,
            shared: 0,
        };
        let grid = [size.n.div_ceil(columns), 1, 1];
        let [m, n, k] = [size.m, size.n, size.k].map(Argument::int);
        let (x, weight) = (Some(&self.x), Some(self.weight));
        gpu.filled(self.shape.as_slice(), self.target.dtype, |y| {
            let tensors = [x, weight, self.bias, self.residual.as_ref()];
            gpu.with(tensors, |[x, weight, bias, residual]| {
                // SAFETY: linear_rows_T(x, w, bias, residual, y, m, n, k), with the shapes that
                // `new` has checked.
                unsafe { gpu.launch(&kernel, grid, &[x, weight, bias, residual, y, m, n, k]) }
            })
        })
    }

    fn kernel(&self, form: Form, Division { tile, .. }: Division) -> Kernel {
        let name = match form {
            Form::Linear => "linear",
            Form::Conv => "conv",
        };
        Kernel {
            module: Module::Gemm,
            name: format!("{name}_{}_{}", self.target.suffix, tile.name()),
            threads: tile.threads,
            shared: tile.shared,
        }
    }

    /// Computes y, or the parts of its sums.
    fn launch(
        &self,
        form: Form,
        division: Division,
        outputs: [Argument; 2],
        sizes: &[Argument],
    ) -> Result<()> {
        let Target { gpu, size, .. } = &self.target;
        let [across, down] = division.tile.grid(*size);
        let grid = [across, down, division.splits];
        let (x, weight, residual) = (Some(&self.x), Some(self.weight), self.residual.as_ref());
        let kernel = self.kernel(form, division);
        let tensors = [x, weight, self.bias, self.shift.as_ref(), residual];
        gpu.with(tensors, |[x, weight, bias, shift, residual]| {
            let shift = match form {
                Form::Linear => &[][..],
                Form::Conv => &[shift],
            };
            let arguments = [&[x, weight, bias], shift, &[residual], &outputs, sizes].concat();
            // SAFETY: linear_T_TILE(x, w, bias, residual, y, partial, m, n, k, splits) or
            // conv_T_TILE(x, w, bias, shift, residual, y, partial, b, h, w, c, n, oh, ow, up_h,
            // up_w, side, stride, before, splits), with the shapes that `new` has checked and
            // splits * m * n values behind `partial`.
            unsafe { gpu.launch(&kernel, grid, &arguments) }
        })
    }

    /// Adds the parts (splits, m, n) of the sums, and the rest.
    fn add(&self, splits: usize, partial: Argument, y: Argument) -> Result<()> {
        let Target { gpu, size, .. } = &self.target;
        let kernel = Kernel {
            module: Module::Gemm,
            name: format!("reduce_{}", self.target.suffix),
            threads: ADDING,
            shared: 0,
        };
        let pictures = self.shift.as_ref().map_or(1, |shift| shift.dims()[0]);
        let sizes = [size.m, size.n, size.m / pictures, splits].map(Argument::int);
        let tensors = [self.bias, self.shift.as_ref(), self.residual.as_ref()];
        let threads = size.m * size.n.div_ceil(ADDED);
        let grid = [threads.div_ceil(ADDING as usize), 1, 1];
        gpu.with(tensors, |[bias, shift, residual]| {
            let arguments = [&[partial, bias, shift, residual, y], &sizes[..]].concat();
            // SAFETY: reduce_T(partial, bias, shift, residual, y, m, n, rows_per_shift, splits)
            // with partial (splits, m, n), bias (n), shift (pictures, n), residual and y (m, n).
            unsafe { gpu.launch(&kernel, grid, &arguments) }
        })
    }
}
