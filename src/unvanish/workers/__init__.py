"""Work that is done elsewhere: in processes of this machine, which may die, hang or eat memory, and on Ray."""
