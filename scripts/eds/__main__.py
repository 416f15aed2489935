from eds.cli import main

main()
