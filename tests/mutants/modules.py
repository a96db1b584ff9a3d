"""The modules that are mutated, each with the tests that are to see it, the quickest first."""

from __future__ import annotations

_LATENT = ("tests/latent/test_model.py", "tests/oracles/test_latent_bound.py")

# Below src/nelbo.
MODULES: dict[str, tuple[str, ...]] = {
    "chain/mhvae.py": (
        "tests/chain/test_mhvae.py",
        "tests/chain/test_tighter_bounds.py",
        "tests/oracles/test_gaussian_bound.py",
    ),
    "chain/bound.py": ("tests/chain/test_bound.py", "tests/chain/test_estimators.py"),
    "chain/distributions.py": ("tests/chain/test_distributions.py", "tests/chain/test_bound.py"),
    "chain/estimate.py": ("tests/chain/test_estimate.py",),
    "chain/estimators.py": ("tests/chain/test_estimators.py",),
    "chain/conditioning.py": (
        "tests/chain/test_conditioning.py",
        "tests/networks/test_guidance.py",
    ),
    "evidence/calibration.py": ("tests/evidence/test_calibration.py",),
    "evidence/evaluation.py": (
        "tests/latent/test_evaluation.py",
        "tests/commands/test_evidence.py",
    ),
    "latent/model.py": _LATENT,
    "latent/bound.py": _LATENT,
    "evidence/likelihood.py": ("tests/oracles/test_latent_evidence.py",),
    "diffusion/continuous.py": (
        "tests/diffusion/test_continuous.py",
        "tests/diffusion/test_learned_schedule.py",
    ),
    "diffusion/dequantization.py": ("tests/diffusion/test_flow.py",),
    "diffusion/flow.py": ("tests/diffusion/test_flow.py",),
    "diffusion/learned_schedule.py": ("tests/diffusion/test_learned_schedule.py",),
    "diffusion/level_samplers.py": ("tests/diffusion/test_level_samplers.py",),
    "diffusion/model.py": ("tests/diffusion/test_model.py", "tests/oracles/test_gaussian_bound.py"),
    "diffusion/objectives.py": (
        "tests/diffusion/test_objectives.py",
        "tests/diffusion/test_weighting.py",
    ),
    "diffusion/optimal_levels.py": ("tests/diffusion/test_optimal_levels.py",),
    "diffusion/prediction.py": ("tests/diffusion/test_model.py", "tests/samplers/test_ddim.py"),
    "diffusion/profile.py": (
        "tests/diffusion/test_optimal_levels.py",
        "tests/oracles/test_optimal_variance.py",
        "tests/formats/test_profile.py",
    ),
    "diffusion/level_map.py": ("tests/diffusion/test_level_map.py",),
    "diffusion/schedule.py": ("tests/diffusion/test_schedule.py",),
    "diffusion/thresholding.py": ("tests/diffusion/test_thresholding.py",),
    "diffusion/variance.py": (
        "tests/diffusion/test_model.py",
        "tests/oracles/test_optimal_variance.py",
    ),
    "diffusion/weighting.py": ("tests/diffusion/test_weighting.py",),
    "families/emissions.py": ("tests/families/test_hmm.py",),
    "families/gan.py": ("tests/families/test_gan.py",),
    "families/heads.py": ("tests/families/test_heads.py",),
    "families/hmm.py": ("tests/families/test_hmm.py",),
    "families/hmm_inference.py": ("tests/families/test_hmm.py",),
    "families/kalman.py": ("tests/families/test_lds.py",),
    "families/lds.py": ("tests/families/test_lds.py",),
    "families/markov.py": ("tests/families/test_markov.py",),
    "families/neighbours.py": ("tests/families/test_autoregressive.py",),
    "families/ppca.py": ("tests/families/test_ppca.py",),
    "families/rounding.py": ("tests/families/test_ppca.py", "tests/families/test_lds.py"),
    "families/state_space.py": ("tests/families/test_autoregressive.py",),
    "families/vae.py": ("tests/families/test_vae.py",),
    "samplers/ddim.py": ("tests/samplers/test_ddim.py", "tests/samplers/test_parity.py"),
    "samplers/ddpm.py": ("tests/samplers/test_ddpm.py", "tests/samplers/test_parity.py"),
    "samplers/dpm_solver.py": ("tests/samplers/test_parity.py", "tests/samplers/test_order.py"),
    "samplers/euler.py": ("tests/samplers/test_heun.py", "tests/samplers/test_parity.py"),
    "samplers/heun.py": ("tests/samplers/test_heun.py", "tests/samplers/test_parity.py"),
    "samplers/multistep.py": ("tests/samplers/test_parity.py", "tests/samplers/test_order.py"),
    "samplers/base.py": ("tests/samplers/test_parity.py", "tests/samplers/test_start.py"),
    "samplers/grid.py": ("tests/samplers/test_ddpm.py", "tests/samplers/test_parity.py"),
    "evidence/classification.py": (
        "tests/evidence/test_classification.py",
        "tests/oracles/test_latent_evidence.py",
    ),
    "evidence/comparison.py": ("tests/evidence/test_comparison.py",),
    "evidence/ranking.py": ("tests/commands/test_evidence.py",),
    "evidence/sample_quality.py": ("tests/evidence/test_sample_quality.py",),
    "evidence/nearest.py": ("tests/evidence/test_sample_quality.py",),
}
