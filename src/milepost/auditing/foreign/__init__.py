"""`milepost audit --saver`: training scripts that do not use milepost, watched by what they ask of their framework."""
