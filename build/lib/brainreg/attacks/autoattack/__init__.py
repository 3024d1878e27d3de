"""AutoAttack (Croce and Hein, arXiv 2003.01690): the attack, its cascade over images and strengths, its four stages."""
