package leaks

func divides(secret uint16) uint16  { return secret / 3329 }
func reduces(secret uint32) uint32  { return secret % 3329 }
func reducesInPlace(secret *uint32) { *secret %= 3329 }
func indexes(secret byte) byte      { return [256]byte{}[secret] }
func loops(secret byte) (n int) {
	for range secret {
		n++
	}
	return n
}
func branches(secret uint16) int {
	if secret < 3329 && len("x") == 1 {
		return 1
	}
	return 0
}
func repeats(secret uint16) (n int) {
	for secret >= 3329 {
		secret -= 3329
		n++
	}
	return n
}

func converts(table []byte, secret uint16) byte { return table[int(secret)] }
