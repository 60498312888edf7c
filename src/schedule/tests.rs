use candle_core::Device;

use super::*;

fn latent(seed: f32) -> Tensor {
    let values: Vec<f32> = (0..32).map(|i| ((i as f32 + seed) * 1.7).sin()).collect();
    Tensor::from_vec(values, (1, 2, 4, 4), &Device::Cpu).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar()
        .unwrap()
}

#[test]
fn levels_equal_the_ones_of_diffusers() {
    // DDIMScheduler(beta_start=0.00085, beta_end=0.012,
    // beta_schedule="scaled_linear").alphas_cumprod[[1, 19, 259, 519, 779, 999]]
    let expected = [
        (1, 0.998_296_02),
        (19, 0.982_243_96),
        (259, 0.658_975_24),
        (519, 0.251_577_53),
        (779, 0.044_200_413),
        (999, 0.004_660_095),
    ];
    let schedule = NoiseSchedule::default();
    for (t, alpha_cumprod) in expected {
        let (alpha, sigma) = schedule.alpha_sigma(Timestep(t));
        assert!(
            (alpha * alpha - alpha_cumprod).abs() < 3e-7,
            "alpha at {t}: {alpha}"
        );
        assert!(
            (sigma * sigma - (1.0 - alpha_cumprod)).abs() < 3e-7,
            "sigma at {t}"
        );
    }
}

#[test]
fn other_schedules_equal_those_of_diffusers() {
    // DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear" or
    // "squaredcos_cap_v2").alphas_cumprod[[0, 1, 499, 998, 999]]
    let linear = NoiseSchedule::linear(0.0001, 0.02).unwrap();
    let cosine = NoiseSchedule::cosine().unwrap();
    for (schedule, expected) in [
        (
            linear,
            [
                9.999_000e-01,
                9.997_801e-01,
                7.858_723e-02,
                4.118_194e-05,
                4.035_830e-05,
            ],
        ),
        (
            cosine,
            [
                9.999_587e-01,
                9.999_126e-01,
                4.938_435e-01,
                2.428_766e-06,
                2.428_735e-09,
            ],
        ),
    ] {
        for (t, alpha) in [0, 1, 499, 998, 999].into_iter().zip(expected) {
            let found = f64::from(schedule.alphas_cumprod[t]);
            assert!((found / alpha - 1.0).abs() < 2e-5, "{t}: {found} {alpha}");
        }
    }
}

#[test]
fn betas_that_are_no_schedule_are_errors() {
    let with = |beta: f32| {
        let mut betas = [1e-4; TIMESTEPS];
        betas[500] = beta;
        NoiseSchedule::from_betas(&betas)
    };
    assert!(with(0.0).is_ok());
    for beta in [1.0, -1e-4, f32::NAN, f32::INFINITY] {
        assert!(with(beta).is_err(), "{beta}");
    }
    assert!(NoiseSchedule::from_betas(&[1e-4; 999]).is_err());
    assert!(NoiseSchedule::from_betas(&[0.9; TIMESTEPS]).is_err());
}

#[test]
fn a_jump_and_its_inverse_cancel() {
    let (x, eps, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
    let there = Jump {
        from: Timestep(259),
        to: Timestep(779),
    };
    let back = Jump {
        from: Timestep(779),
        to: Timestep(259),
    };
    let y = schedule.jump(&x, &eps, there).unwrap();
    assert!(distance(&schedule.jump(&y, &eps, back).unwrap(), &x) < 1e-5);
}

#[test]
fn a_path_under_constant_noise_equals_one_jump() {
    let (x, eps, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
    let path = Timesteps::reverse(&[999, 779, 519, 259, 0]).unwrap();
    let walked = path
        .jumps()
        .fold(x.clone(), |x, s| schedule.jump(&x, &eps, s).unwrap());
    let whole = Jump {
        from: path.start(),
        to: path.end(),
    };
    assert!(distance(&walked, &schedule.jump(&x, &eps, whole).unwrap()) < 1e-4);
}

#[test]
fn landing_on_zero_is_the_clean_latent() {
    let (x, noise, schedule) = (latent(0.0), latent(9.0), NoiseSchedule::default());
    let noised = schedule.add_noise(&x, &noise, Timestep(519)).unwrap();
    let home = Jump {
        from: Timestep(519),
        to: Timestep(0),
    };
    assert!(distance(&schedule.jump(&noised, &noise, home).unwrap(), &x) < 1e-6);
}

#[test]
fn unordered_or_excessive_timesteps_are_errors() {
    for steps in [&[19, 19][..], &[19, 259, 200], &[19], &[], &[19, 1000]] {
        assert!(Timesteps::forward(steps).is_err(), "{steps:?}");
    }
    for steps in [&[999, 0, 259][..], &[0, 999], &[0], &[1200, 0]] {
        assert!(Timesteps::reverse(steps).is_err(), "{steps:?}");
    }
    assert_eq!(Timesteps::reverse(&[999, 339, 0]).unwrap().count(), 2);
}

#[test]
fn steps_are_read_with_commas() {
    assert_eq!(
        "19, 259,999".parse::<Timesteps>().unwrap(),
        Timesteps::forward(&[19, 259, 999]).unwrap()
    );
    for bad in ["", "19,,259", "a", "-1,3", "70000"] {
        assert!(bad.parse::<Timesteps>().is_err(), "{bad:?}");
    }
}
